// Classifies a picture and prints the most probable classes of each head.
//
//     npm ci --prefix examples/nodejs
//     node examples/nodejs/classify.js images/chelsea.png
//     node examples/nodejs/classify.js images/chelsea.png default cats
//
// HEADSWAP_ADDRESS names a server other than 127.0.0.1:50051.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

import * as grpc from "@grpc/grpc-js";
import * as protoLoader from "@grpc/proto-loader";

const protos = protoLoader.loadSync(["headswap/v1/classifier.proto", "google/rpc/error_details.proto"], {
  includeDirs: [fileURLToPath(new URL("../../proto", import.meta.url))],
  keepCase: true,
  defaults: true,
  enums: String,
  longs: Number,
});
const { headswap } = grpc.loadPackageDefinition(protos);

/** Unpacks the details of a `google.rpc.Status`. */
function details(status) {
  return status.details.map((detail) => {
    const type = detail.type_url.slice(detail.type_url.lastIndexOf("/") + 1);
    return { type, ...protos[type]?.deserialize(detail.value) };
  });
}

/** Returns the details of a call that failed. */
function detailsOfCall(error) {
  const [packed] = error.metadata.get("grpc-status-details-bin");
  return packed ? details(protos["google.rpc.Status"].deserialize(packed)) : [];
}

const { positionals } = parseArgs({ allowPositionals: true });
const [picture, ...heads] = positionals;
if (!picture) {
  console.error("usage: classify.js PICTURE [HEAD...]");
  process.exit(2);
}

const address = process.env.HEADSWAP_ADDRESS ?? "127.0.0.1:50051";
const client = new headswap.v1.ClassifierService(address, grpc.credentials.createInsecure(), {
  // Responses with the logits of many classes are larger than gRPC's default limit of 4 MiB.
  "grpc.max_receive_message_length": 64 << 20,
});
const classify = promisify(client.Classify).bind(client);

try {
  const request = { image: await readFile(picture), heads, top_k: 3 };
  const response = await classify(request, new grpc.Metadata(), { deadline: Date.now() + 10_000 });
  for (const result of response.results) {
    // Of several heads, some can fail while the call succeeds.
    if (result.error) {
      console.error(`${result.head}: ${result.error.message}`, details(result.error));
      continue;
    }
    console.log(`${result.head}, version ${result.version}`);
    for (const { probability, value, kind, label, index } of result.predictions) {
      // Some heads answer values, which are no probabilities.
      const answer = kind === "OUTPUT_KIND_LINEAR" ? value.toPrecision(4) : `${(100 * probability).toFixed(1)} %`;
      console.log(`  ${answer}  ${label || index}`);
    }
  }
} catch (error) {
  if (!(error.metadata instanceof grpc.Metadata)) throw error;
  console.error(`${grpc.status[error.code]}: ${error.details}`, JSON.stringify(detailsOfCall(error), null, 2));
  process.exitCode = 1;
} finally {
  client.close();
}
