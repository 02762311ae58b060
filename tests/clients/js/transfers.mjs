// A model that goes to a registry and comes back, with its progress; the second argument is the registry.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const model = `${process.argv[3]}/me/js`;
const collect = async (stream) => {
  const parts = [];
  for await (const part of await stream) parts.push(part);
  return parts;
};

await ollama.copy({ source: "said", destination: model });
const pushed = await collect(ollama.push({ model, stream: true }));
const again = await ollama.push({ model });
await ollama.delete({ model });
const pulled = await collect(ollama.pull({ model, stream: true }));
const whole = await ollama.pull({ model, insecure: true });
const { response } = await ollama.generate({ model, prompt: "hi" });
let missing;
try {
  await collect(ollama.pull({ model: `${process.argv[3]}/me/none`, stream: true }));
} catch (error) {
  missing = error.message;
}
await ollama.delete({ model });
console.log(JSON.stringify({ pushed, again, pulled, whole, response, missing }));
