// A prompt that is gone on with: options, context, suffix, raw, load and unload.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });

const short = await ollama.generate({ model: "said", prompt: "hi", options: { num_predict: 2, temperature: 0 } });
const again = await ollama.generate({ model: "said", prompt: "more", context: short.context });
const pieces = [];
for await (const part of await ollama.generate({ model: "said", prompt: "hi", stream: true })) pieces.push(part);
const filled = await ollama.generate({ model: "fills", prompt: "def f(", suffix: "return" });
const raw = await ollama.generate({ model: "said", prompt: "hi<|go|>", raw: true });
const system = await ollama.generate({ model: "said", prompt: "hi", system: "Be kind.", options: { stop: ["three"] } });
const loaded = await ollama.generate({ model: "said", prompt: "", keep_alive: "10m" });
const running = await ollama.ps();
const unloaded = await ollama.generate({ model: "said", prompt: "", keep_alive: 0 });
console.log(JSON.stringify({ short, again, pieces, filled, raw, system, loaded, running, unloaded }));
