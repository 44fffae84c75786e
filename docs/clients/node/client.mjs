// node client.mjs ADDRESS draw MODEL PROMPT [STEPS [WIDTH]]: a picture, from the request to its URL.
// node client.mjs ADDRESS cancel ID: let a generation be.
// PROTOS is the folder of atelier/v1 and google/rpc; ATELIER_API_KEY the API key, if one is wanted.
import { randomUUID } from "node:crypto";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const { PROTOS = "protos", ATELIER_API_KEY } = process.env;

// [shown]
const files = ["atelier/v1/generation.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"];
const types = loader.loadSync(files, { includeDirs: [PROTOS], keepCase: true, enums: String, longs: String, defaults: true });
const { GenerationService } = grpc.loadPackageDefinition(types).atelier.v1;

const connect = (address) => new GenerationService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
if (ATELIER_API_KEY) metadata.set("authorization", `Bearer ${ATELIER_API_KEY}`);

async function draw(door, model, prompt, steps, width) {
  const request = { request_id: randomUUID(), model, image: { prompt, steps, width } };
  const { generation } = await promisify(door.CreateGeneration.bind(door))(request, metadata);
  console.log("created", generation.id);
  for await (const { generation: now } of door.WatchGeneration({ id: generation.id }, metadata)) {
    console.log(now.state, `${now.progress.step}/${now.progress.total_steps}`);
    for (const result of now.results) console.log("result", result.url);
  }
}

const cancel = (door, id) => promisify(door.CancelGeneration.bind(door))({ id }, metadata);

function explain(error) {
  console.log("error", grpc.status[error.code], error.details);
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  for (const { type_url, value } of packed ? types["google.rpc.Status"].deserialize(packed).details : []) {
    const name = type_url.split("/").pop();
    const detail = types[name].deserialize(value);
    if (name === "google.rpc.ErrorInfo") console.log("reason", detail.reason);
    if (name === "google.rpc.RetryInfo") console.log("retry after", Number(detail.retry_delay.seconds) + detail.retry_delay.nanos / 1e9);
    for (const wrong of detail.field_violations ?? []) console.log("field", wrong.field, wrong.description);
  }
}
// [end]

const [address, command, ...words] = process.argv.slice(2);
const door = connect(address);
const [first, second, steps, width] = words;
try {
  if (command === "draw") await draw(door, first, second, steps && Number(steps), width && Number(width));
  else console.log("cancelled", (await cancel(door, first)).generation.id);
} catch (error) {
  explain(error);
  process.exitCode = 1;
} finally {
  door.close();
}
