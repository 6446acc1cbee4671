// Prints results as they come: node results.mjs [nats://127.0.0.1:4222] [how many]
import { connect, JSONCodec } from "nats";

const [address = "nats://127.0.0.1:4222", most = "Infinity"] = process.argv.slice(2);
const client = await connect({ servers: address });
const results = client.subscribe("inference.results", { max: Number(most) || undefined });
await client.flush();
console.log(`listening at ${address}`);
const codec = JSONCodec();
for await (const message of results) {
  const result = codec.decode(message.data);
  const seen = result.result.map((found) => `${found.label} ${Math.round(found.confidence * 100)}%`);
  console.log(`${result.model} ${result.source} ${result.frame_id} ${seen.join(", ")}`);
}
await client.close();
