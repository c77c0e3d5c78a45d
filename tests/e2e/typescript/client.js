// Asks the proxy for one thing and prints as JSON what the SDK made of it. What it shall do comes as JSON on stdin.

import { readFileSync } from "node:fs";
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { jsonSchemaOutputFormat } from "@anthropic-ai/sdk/helpers/json-schema";

const { baseURL, apiKey, maxRetries, what, changes } = JSON.parse(readFileSync(0, "utf8"));
const client = new Anthropic({ baseURL, apiKey, maxRetries });
const request = {
  model: "claude-sonnet-4",
  max_tokens: 2000,
  messages: [{ role: "user", content: "What is in the file?" }],
  ...changes,
};
const report = {
  type: "object",
  properties: {
    bed: { type: "integer" },
    wards: { type: "array", items: { enum: ["A", "B"] } },
    seen: { type: "string", format: "date" },
  },
  required: ["bed", "wards", "seen"],
};
const plus = betaTool({
  name: "plus",
  description: "Adds two numbers.",
  inputSchema: {
    type: "object",
    properties: { a: { type: "integer" }, b: { type: "integer" } },
    required: ["a", "b"],
  },
  run: ({ a, b }) => `${a + b} &lt; ${a + b + 1}`,
});

async function all(items) {
  const list = [];
  for await (const item of items) list.push(item);
  return list;
}

const ways = {
  create: () => client.messages.create(request),
  stream: async () => {
    const stream = client.messages.stream(request);
    const texts = [];
    stream.on("text", (text) => texts.push(text));
    return { ...(await stream.finalMessage()), texts };
  },
  "raw stream": async () => {
    const events = await all(await client.messages.create({ ...request, stream: true }));
    return events.map((event) => event.type);
  },
  parse: () => client.messages.parse({ ...request, output_config: { format: jsonSchemaOutputFormat(report) } }),
  "parse a stream": () =>
    client.messages
      .stream({ ...request, output_config: { format: jsonSchemaOutputFormat(report) } })
      .finalMessage(),
  tools: async () => {
    const runner = client.beta.messages.toolRunner({ ...request, tools: [plus] });
    return (await all(runner)).map((message) => message.stop_reason);
  },
  "streamed tools": async () => {
    const reasons = [];
    for await (const stream of client.beta.messages.toolRunner({ ...request, tools: [plus], stream: true })) {
      reasons.push((await stream.finalMessage()).stop_reason);
    }
    return reasons;
  },
  count: () => client.messages.countTokens({ model: request.model, messages: request.messages }),
  models: async () => (await all(client.models.list({ limit: 2 }))).map((model) => model.id),
  batches: () => client.messages.batches.list(),
  files: () => client.beta.files.list(),
};

const seen = await ways[what]().then(
  (result) => ({ result }),
  (error) => ({
    error: {
      name: error.constructor.name,
      status: error.status ?? null,
      type: error.type,
      message: error.message,
      requestID: error.requestID,
    },
  }),
);

console.log(JSON.stringify(seen));
