// What goes wrong, as the package tells it: the error's class, status and text, streamed and not.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "hi" }];
const failure = async (work) => {
  try {
    await work();
    return null;
  } catch (error) {
    return [error.name, error.status_code, error.message];
  }
};

const failures = {};
for (const stream of [false, true]) {
  const chat = (more) => failure(() => ollama.chat({ model: "said", messages, stream, ...more }));
  failures[stream] = {
    missing: await chat({ model: "nix" }),
    chat: await chat({ model: "vectors" }),
    think: await chat({ think: true }),
    tools: await chat({ tools: [{ type: "function", function: { name: "f" } }] }),
    option: await chat({ options: { num_ctx: "many" } }),
    format: await chat({ format: "xml" }),
    create: await failure(() => ollama.create({ model: "x", stream })),
  };
}
failures.show = await failure(() => ollama.show({ model: "nix" }));
failures.copy = await failure(() => ollama.copy({ source: "nix", destination: "x" }));
failures.delete = await failure(() => ollama.delete({ model: "nix" }));
failures.embed = await failure(() => ollama.embed({ model: "nix", input: "hi" }));
console.log(JSON.stringify(failures));
