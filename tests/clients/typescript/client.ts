// Uses the generated stubs as a client would; only its types are checked.

import { create, toBinary } from "@bufbuild/protobuf";

import { BadRequestSchema } from "./gen/typescript/google/rpc/error_details_pb.js";
import {
  ClassifierService,
  type ClassifyRequest,
  ClassifyRequestSchema,
  type HeadResult,
} from "./gen/typescript/headswap/v1/classifier_pb.js";
import { HeadAdminService, HeadTier, type ReplaceHeadResponse } from "./gen/typescript/headswap/v1/head_admin_pb.js";

export function request(image: Uint8Array): Uint8Array {
  const request: ClassifyRequest = create(ClassifyRequestSchema, {
    input: { case: "image", value: image },
    heads: ["default"],
    topK: 3,
  });
  return toBinary(ClassifyRequestSchema, request);
}

export function label(result: HeadResult): string | undefined {
  return result.error ? result.error.message : result.predictions[0]?.label;
}

export function isHot(response: ReplaceHeadResponse): boolean {
  const version: bigint | undefined = response.head?.version;
  return version !== undefined && response.head?.tier === HeadTier.HOT;
}

export const methods: string[] = [ClassifierService.method.classify.name, HeadAdminService.method.uploadHead.name];
export const detail: string = BadRequestSchema.typeName;
