// Plays scenes as they are ordered: one JSON object a line in, one out. What libraries print goes to the log.
import { createInterface } from "node:readline";

import * as ai_sdk from "./ai_sdk.mjs";
import * as ollama from "./ollama.mjs";
import * as openai from "./openai.mjs";

const CLIENTS = { ollama, openai, ai_sdk };

for (const name of ["log", "info", "debug"]) console[name] = console.error;
globalThis.AI_SDK_LOG_WARNINGS = false;

for await (const line of createInterface({ input: process.stdin })) {
  const { scene, client, ...given } = JSON.parse(line);
  let told;
  try {
    told = { result: await CLIENTS[client][scene](given) };
  } catch (why) {
    told = { failed: why.stack ?? String(why) };
  }
  process.stdout.write(JSON.stringify(told) + "\n");
}
