// A chat in one piece and in pieces, and a second turn.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "hi" }];

const whole = await ollama.chat({ model: "said", messages });
const pieces = [];
for await (const part of await ollama.chat({ model: "said", messages, stream: true })) pieces.push(part);
messages.push(whole.message, { role: "user", content: "more" });
const next = await ollama.chat({ model: "said", messages, options: { num_predict: 2 }, keep_alive: "5m" });
const logprobs = await ollama.chat({ model: "said", messages, logprobs: true, top_logprobs: 2 });
console.log(JSON.stringify({ whole, pieces, next, logprobs }));
