// Vectors: of several texts, of one, shortened, and the older way.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const several = await ollama.embed({ model: "tiny", input: ["hi", "there"] });
const one = await ollama.embed({ model: "tiny", input: "hi" });
const short = await ollama.embed({ model: "tiny", input: "hi", dimensions: 8 });
const older = await ollama.embeddings({ model: "tiny", prompt: "hi" });
console.log(JSON.stringify({ several, one, short, older }));
