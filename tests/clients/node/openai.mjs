// OpenAI's own client for JavaScript.
import OpenAI from "openai";

const connect = (endpoint) => new OpenAI({ baseURL: `${endpoint}/v1`, apiKey: "none", maxRetries: 0 });
const ask = (question) => [{ role: "user", content: question }];

export async function whole({ endpoint, model, question, tokens }) {
  const asked = { model, messages: ask(question), max_tokens: tokens };
  const told = await connect(endpoint).chat.completions.create(asked);
  return { text: told.choices[0].message.content, tokens: told.usage.completion_tokens };
}

export async function stream({ endpoint, model, question, tokens }) {
  const texts = [];
  const asked = { model, messages: ask(question), max_tokens: tokens, stream: true };
  for await (const part of await connect(endpoint).chat.completions.create(asked)) {
    texts.push(part.choices[0]?.delta.content ?? "");
  }
  return texts;
}

export async function tools({ endpoint, model, question, tool, result, stream }) {
  const { completions } = connect(endpoint).chat;
  const messages = ask(question);
  const answer = async () => {
    const asked = { model, messages, tools: [tool] };
    if (stream) return (await completions.stream(asked).finalChatCompletion()).choices[0].message;
    return (await completions.create(asked)).choices[0].message;
  };
  const called = await answer();
  const [call] = called.tool_calls;
  messages.push(called, { role: "tool", tool_call_id: call.id, content: result });
  return { name: call.function.name, arguments: JSON.parse(call.function.arguments), said: (await answer()).content };
}

export async function schema({ endpoint, model, question, schema }) {
  const response_format = { type: "json_schema", json_schema: { name: "book", schema, strict: true } };
  const told = await connect(endpoint).chat.completions.create({ model, messages: ask(question), response_format });
  return JSON.parse(told.choices[0].message.content);
}

export async function embed({ endpoint, model, texts }) {
  const told = await connect(endpoint).embeddings.create({ model, input: texts });
  return told.data.map((each) => each.embedding);
}

export async function error({ endpoint, model, question }) {
  try {
    await connect(endpoint).chat.completions.create({ model, messages: ask(question) });
  } catch (why) {
    return { kind: why.constructor.name, status: why.status, text: why.message, request_id: why.requestID };
  }
}

export async function leave({ endpoint, model, question, tokens }) {
  const asked = { model, messages: ask(question), max_tokens: tokens, stream: true };
  const told = await connect(endpoint).chat.completions.create(asked);
  let read = 0;
  for await (const _ of told) if (++read === 2) told.controller.abort();
  return { read };
}

export async function responses({ endpoint, model, question, tokens }) {
  const client = connect(endpoint);
  const asked = { model, input: question, max_output_tokens: tokens };
  const texts = [];
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    if (event.type === "response.output_text.delta") texts.push(event.delta);
  }
  return { text: (await client.responses.create(asked)).output_text, texts };
}
