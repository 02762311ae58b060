// Models made, copied, shown, listed and deleted.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const version = await ollama.version();
const created = await ollama.create({
  model: "js-mario",
  from: "said",
  system: "You are Mario.",
  template: "{{ .System }}{{ .Prompt }}<|go|>",
  parameters: { num_predict: 2, stop: ["x", "y"] },
  license: "do what you want",
  messages: [{ role: "user", content: "Hi." }],
});
const steps = [];
for await (const part of await ollama.create({ model: "js-other", from: "js-mario", stream: true })) steps.push(part);
const copied = await ollama.copy({ source: "js-mario", destination: "js-luigi" });
const said = await ollama.generate({ model: "js-luigi", prompt: "hi" });
const shown = await ollama.show({ model: "js-luigi" });
const running = await ollama.ps();
const before = await ollama.list();
const deleted = [];
for (const model of ["js-mario", "js-other", "js-luigi"]) deleted.push(await ollama.delete({ model }));
const after = await ollama.list();
console.log(
  JSON.stringify({
    version, created, steps, copied, said: said.response, shown, running, before, deleted,
    after: after.models.map((model) => model.name),
  }),
);
