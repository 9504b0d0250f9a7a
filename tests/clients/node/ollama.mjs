// Ollama's own client for JavaScript.
import { Ollama } from "ollama";

const connect = (endpoint) => new Ollama({ host: endpoint });
const ask = (question) => [{ role: "user", content: question }];
const limited = (tokens) => ({ num_predict: tokens });

export async function whole({ endpoint, model, question, tokens }) {
  const told = await connect(endpoint).chat({ model, messages: ask(question), options: limited(tokens) });
  return { text: told.message.content, tokens: told.eval_count };
}

export async function stream({ endpoint, model, question, tokens }) {
  const texts = [];
  const asked = { model, messages: ask(question), options: limited(tokens), stream: true };
  for await (const part of await connect(endpoint).chat(asked)) texts.push(part.message.content);
  return texts;
}

export async function tools({ endpoint, model, question, tool, result, stream }) {
  const client = connect(endpoint);
  const messages = ask(question);
  const answer = async () => {
    if (!stream) return (await client.chat({ model, messages, tools: [tool] })).message;
    const message = { role: "assistant", content: "", tool_calls: [] };
    for await (const part of await client.chat({ model, messages, tools: [tool], stream: true })) {
      message.content += part.message.content;
      message.tool_calls.push(...(part.message.tool_calls ?? []));
    }
    return message;
  };
  const called = await answer();
  const { name, arguments: given } = called.tool_calls[0].function;
  messages.push(called, { role: "tool", content: result, tool_name: name });
  return { name, arguments: given, said: (await answer()).content };
}

export async function schema({ endpoint, model, question, schema }) {
  const told = await connect(endpoint).chat({ model, messages: ask(question), format: schema });
  return JSON.parse(told.message.content);
}

export async function embed({ endpoint, model, texts }) {
  return (await connect(endpoint).embed({ model, input: texts })).embeddings;
}

export async function error({ endpoint, model, question }) {
  try {
    await connect(endpoint).chat({ model, messages: ask(question) });
  } catch (why) {
    return { kind: why.name, status: why.status_code, text: why.message };
  }
}

export async function leave({ endpoint, model, question, tokens }) {
  const asked = { model, messages: ask(question), options: limited(tokens), stream: true };
  const told = await connect(endpoint).chat(asked);
  let read = 0;
  try {
    for await (const _ of told) if (++read === 2) told.abort();
  } catch (why) {
    return { read, kind: why.name };
  }
}
