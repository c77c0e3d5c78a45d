// Asks the proxy for one stream with a call and for one failure, and prints as JSON what the SDK made of them.

import Anthropic from "@anthropic-ai/sdk";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey });
const request = {
  model: "claude-sonnet-4",
  max_tokens: 100,
  messages: [{ role: "user", content: "What is in the file?" }],
  tools: [
    {
      name: "read",
      input_schema: {
        type: "object",
        properties: { path: { type: "string" }, lines: { type: "array", items: { type: "integer" } } },
      },
    },
  ],
};

const stream = client.messages.stream(request);
const texts = [];
stream.on("text", (text) => texts.push(text));
const message = await stream.finalMessage();

const failure = await client.messages.create({ ...request, model: "gtp-4o" }).then(
  () => null,
  (error) => ({
    name: error.constructor.name,
    status: error.status,
    type: error.type,
    message: error.message,
    requestID: error.requestID,
  }),
);

console.log(JSON.stringify({ texts, message, failure }));
