// Streams that are broken off: one alone, then two at once.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const options = { num_predict: 4000 };
const endless = (prompt) => ollama.generate({ model: "tiny", prompt, stream: true, options });

// What has come already is still given after the end.
const read = async (stream, begun) => {
  let done = false;
  try {
    for await (const part of stream) {
      done = part.done;
      begun();
    }
  } catch (error) {
    return { error: error.name, done };
  }
  return { error: null, done };
};

const first = await endless("hi");
const one = await read(first, () => first.abort());

let waiting = 2;
const both = await Promise.all(
  ["you", "me"].map(async (prompt) => {
    let heard = false;
    return read(await endless(prompt), () => {
      if (!heard && --waiting === 0) ollama.abort();
      heard = true;
    });
  }),
);
console.log(JSON.stringify({ one, both }));
