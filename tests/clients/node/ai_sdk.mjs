// Vercel's AI SDK with its provider for endpoints that speak OpenAI's API.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, jsonSchema, stepCountIs, streamText, tool as asTool } from "ai";

const connect = (endpoint) =>
  createOpenAICompatible({
    name: "cluster",
    baseURL: `${endpoint}/v1`,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
const ask = (endpoint, model, question) => ({ model: connect(endpoint)(model), prompt: question, maxRetries: 0 });

export async function whole({ endpoint, model, question, tokens }) {
  const told = await generateText({ ...ask(endpoint, model, question), maxOutputTokens: tokens });
  return { text: told.text, tokens: told.usage.outputTokens };
}

export async function stream({ endpoint, model, question, tokens }) {
  const texts = [];
  const told = streamText({ ...ask(endpoint, model, question), maxOutputTokens: tokens });
  for await (const text of told.textStream) texts.push(text);
  return texts;
}

export async function tools({ endpoint, model, question, tool, result, stream }) {
  const { name, description, parameters } = tool.function;
  let given;
  const execute = async (input) => {
    given = input;
    return result;
  };
  // It sends the result back by itself: the second step is the answer to it.
  const asked = {
    ...ask(endpoint, model, question),
    tools: { [name]: asTool({ description, inputSchema: jsonSchema(parameters), execute }) },
    stopWhen: stepCountIs(2),
  };
  const told = stream ? streamText(asked) : await generateText(asked);
  const said = await told.text;
  const [first] = await told.steps;
  return { name: first.toolCalls[0].toolName, arguments: given, said };
}

export async function schema({ endpoint, model, question, schema }) {
  const output = Output.object({ schema: jsonSchema(schema) });
  return (await generateText({ ...ask(endpoint, model, question), output })).output;
}

export async function embed({ endpoint, model, texts }) {
  const told = await embedMany({ model: connect(endpoint).embeddingModel(model), values: texts, maxRetries: 0 });
  return told.embeddings;
}

export async function error({ endpoint, model, question }) {
  try {
    await generateText(ask(endpoint, model, question));
  } catch (why) {
    const kind = APICallError.isInstance(why) ? "APICallError" : why.name;
    return { kind, status: why.statusCode, text: why.message, request_id: why.responseHeaders?.["x-request-id"] };
  }
}

export async function leave({ endpoint, model, question, tokens }) {
  const leaving = new AbortController();
  const asked = { ...ask(endpoint, model, question), maxOutputTokens: tokens, abortSignal: leaving.signal };
  let read = 0;
  for await (const _ of streamText(asked).textStream) if (++read === 2) leaving.abort();
  return { read };
}
