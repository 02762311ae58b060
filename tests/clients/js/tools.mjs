// A tool that the model calls, in one piece and in pieces, and what becomes of its result.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const weather = ({ city }) => `rain in ${city}`;
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      description: "The weather.",
      parameters: {
        type: "object",
        required: ["city"],
        properties: { city: { type: "string", description: "where" } },
      },
    },
  },
];
const messages = [{ role: "user", content: "hi" }];

const reply = await ollama.chat({ model: "calls", messages, tools });
messages.push(reply.message);
for (const call of reply.message.tool_calls) {
  messages.push({ role: "tool", tool_name: call.function.name, content: weather(call.function.arguments) });
}
const after = await ollama.chat({ model: "calls", messages, tools });
const streamed = [];
const stream = await ollama.chat({ model: "calls", messages: messages.slice(0, 1), tools, stream: true });
for await (const part of stream) streamed.push(part.message);
console.log(JSON.stringify({ reply: reply.message, results: messages.slice(2), after: after.message, streamed }));
