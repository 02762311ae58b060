// Answers of a given form, and answers that are thought about first.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "hi" }];
const format = {
  type: "object",
  properties: { n: { const: 7 } },
  required: ["n"],
  additionalProperties: false,
};

const structured = JSON.parse((await ollama.chat({ model: "said", messages, format })).message.content);
const generated = JSON.parse((await ollama.generate({ model: "said", prompt: "hi", format })).response);
const thought = (await ollama.chat({ model: "thinks", messages, think: true })).message;
const streamed = [];
for await (const part of await ollama.chat({ model: "thinks", messages, think: "high", stream: true })) {
  streamed.push(part.message);
}
const completed = await ollama.generate({ model: "thinks", prompt: "hi", think: true });
const both = (await ollama.chat({ model: "thinks", messages, format })).message;
console.log(
  JSON.stringify({ structured, generated, thought, streamed, thinking: completed.thinking, both }),
);
