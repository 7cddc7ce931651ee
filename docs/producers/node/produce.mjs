#!/usr/bin/env node
/**
 * Sends records to newsloom, one JSON object a line:
 *
 *     node produce.mjs records.ndjson     (or: ... | node produce.mjs -)
 *
 * A record is checked against the JSON Schema first: what newsloom would set aside is refused here,
 * with every reason. stdout has a receipt a line; exit code 1: some were refused, 3: no Kafka.
 */
import { createHash } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { CloudEvent, Kafka as KafkaBinding } from "cloudevents";
import { CompressionTypes, Kafka, Partitioners, logLevel } from "kafkajs";

const SERVERS = process.env.NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS ?? "127.0.0.1:9092";
const TOPIC = process.env.NEWSLOOM_KAFKA_ARTICLES_TOPIC ?? "newsloom.articles.v1";
const SOURCE = process.env.NEWSLOOM_PUBLISH_SOURCE ?? "example/node";
const SCHEMA = new URL("../../../contracts/article.v1.schema.json", import.meta.url);
const BATCH = 200;

const ajv = addFormats(new Ajv2020({ allErrors: true, allowUnionTypes: true }));
export const isRecord = ajv.compile(JSON.parse(readFileSync(SCHEMA, "utf8")));

/**
 * The Kafka key: the address without scheme, "www." and trailing slash. It keeps one article's
 * deliveries in order on one partition; what an article is, newsloom decides from the record itself.
 */
export function keyOf(record) {
  const url = new URL(record.originalUrl ?? record.webUrl ?? record.ampWebUrl ?? record.cdnAmpWebUrl);
  return url.host.replace(/^www\./, "") + url.pathname.replace(/\/$/, "") + url.search;
}

/** The message of one record, observed at a time: the same for the same arguments. */
export function messageOf(record, observedAt = new Date()) {
  const key = keyOf(record);
  const value = JSON.stringify(record);
  const time = observedAt.toISOString();
  const id = createHash("sha256").update([SOURCE, key, value, time].join("\0")).digest("hex");
  const event = new CloudEvent({
    id,
    source: SOURCE,
    type: "newsloom.article.parsed.v1",
    time,
    datacontenttype: "application/json",
    partitionkey: key,
    data: record,
  });
  const all = KafkaBinding.binary(event).headers;
  // What is not set is no header; the key and the content type have places of their own.
  const headers = Object.fromEntries(
    Object.entries(all).filter(
      ([name, text]) =>
        text !== undefined && name !== "ce_partitionkey" && name !== "ce_datacontenttype",
    ),
  );
  return { key, value, headers };
}

async function* lines(path) {
  const input = path === "-" ? process.stdin : createReadStream(path);
  let number = 0;
  for await (const line of createInterface({ input, crlfDelay: Infinity })) {
    number += 1;
    if (line.trim() !== "") yield { number, line };
  }
}

function parse(line) {
  try {
    const record = JSON.parse(line);
    if (isRecord(record)) return { message: messageOf(record) };
    return { reasons: isRecord.errors.map((e) => `${e.instancePath || "record"} ${e.message}`) };
  } catch (error) {
    return { reasons: [error.message] };
  }
}

async function send(producer, messages) {
  if (messages.length === 0) return;
  // acks -1: every replica that is in sync has it.
  const receipts = await producer.send({
    topic: TOPIC,
    messages,
    acks: -1,
    compression: CompressionTypes.GZIP,
  });
  for (const { topicName, partition, baseOffset, errorCode } of receipts) {
    console.log(JSON.stringify({ topic: topicName, partition, offset: baseOffset, errorCode }));
  }
}

async function main(path) {
  const kafka = new Kafka({
    clientId: "newsloom-node",
    brokers: SERVERS.split(","),
    logLevel: logLevel.ERROR,
  });
  const producer = kafka.producer({
    idempotent: true,
    maxInFlightRequests: 1,
    // The partitioner of Java, aiokafka and `newsloom publish`: one key, one partition.
    createPartitioner: Partitioners.DefaultPartitioner,
  });
  let refused = 0;
  await producer.connect();
  try {
    let batch = [];
    for await (const { number, line } of lines(path)) {
      const { message, reasons } = parse(line);
      if (message === undefined) {
        refused += 1;
        console.error(`line ${number}: ${reasons.join("; ")}`);
      } else if (batch.push(message) === BATCH) {
        await send(producer, batch);
        batch = [];
      }
    }
    await send(producer, batch);
  } finally {
    await producer.disconnect();
  }
  return refused === 0 ? 0 : 1;
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  try {
    process.exitCode = await main(process.argv[2] ?? "-");
  } catch (error) {
    console.error(error.message);
    process.exitCode = 3;
  }
}
