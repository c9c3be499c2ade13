// The parts of the page that need no browser: the event stream, the data of the plots, number formatting.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const web = fileURLToPath(new URL("../../dashboard/web/", import.meta.url));
const { build } = createRequire(`${web}package.json`)("esbuild");

/** Loads a TypeScript module of the page. */
async function load(module) {
  const { outputFiles } = await build({ entryPoints: [`${web}src/${module}`], bundle: true, format: "esm", write: false });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
}

test("time left is written as a clock and reaches 0 when it is over", async () => {
  const { countdown } = await load("format.ts");
  const cases = [
    [-1, "00:00"],
    [0, "00:00"],
    [1, "00:01"],
    [999, "00:01"],
    [1_000, "00:01"],
    [59_001, "01:00"],
    [600_000, "10:00"],
    [3_600_000, "1:00:00"],
    [7_199_000, "1:59:59"],
    [86_400_000, "1 d 00:00:00"],
  ];
  for (const [ms, text] of cases) assert.equal(countdown(ms), text, `${ms} ms`);
});

test("rates, spans and bytes are short and keep their unit", async () => {
  const { rate, span, bytes, sigmas } = await load("format.ts");
  assert.deepEqual([0, 0.001, 0.1, 9.994, 12.34, 999, 12_345].map(rate), ["0", "<0.01", "0.10", "9.99", "12.3", "999", "12.3K"]);
  assert.deepEqual([0, 59, 60, 3_600, 90_000].map(span), ["0 s", "59 s", "1 min 0 s", "1 h 0 min", "1 d 1 h"]);
  assert.deepEqual([0, 1023, 1024, 5_242_880].map(bytes), ["0 B", "1023 B", "1.0 KiB", "5.0 MiB"]);
  assert.deepEqual([5.43, -1].map(sigmas), ["+5.4", "−1.0"]);
});

test("the stream is read the same however the bytes are cut", async () => {
  const { messages } = await load("api/stream.ts");
  const text = ': hello\n\nevent: notice\nid: 7\ndata: {"a":\ndata: "ü"}\n\nevent: snapshot\r\ndata:1\r\n\r\ndata: cut off';
  const expected = [
    { event: "comment", data: "", id: null },
    { event: "notice", data: '{"a":\n"ü"}', id: "7" },
    { event: "snapshot", data: "1", id: null },
  ];
  const whole = new TextEncoder().encode(text);
  for (const size of [1, 2, 3, 7, whole.length]) {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < whole.length; at += size) controller.enqueue(whole.subarray(at, at + size));
        controller.close();
      },
    });
    const seen = [];
    for await (const message of messages(body)) seen.push(message);
    assert.deepEqual(seen, expected, `in pieces of ${size} bytes`);
  }
});

const status = (seconds, rate = 1) => ({
  now_ms: seconds * 1000,
  global: { rate, error_rate: 0 },
  baseline: { mean: 1, stddev: 2 },
  dropped: { packets_per_sec: 0, bytes_per_sec: 0 },
});

test("a series keeps its span, its step, and its holes", async () => {
  const { Series, band } = await load("series.ts");
  const series = new Series(10, 2);
  for (let at = 100; at <= 120; at += 1) series.push(status(at, at));
  assert.deepEqual(series.columns.at, [110, 112, 114, 116, 118, 120]);
  series.push(status(128, 5));
  assert.deepEqual(series.columns.at, [118, 120, 128]);
  series.push(status(139, 5));
  assert.deepEqual(series.columns.at, [130, 139]);
  assert.deepEqual(series.columns.rate, [null, 5], "a long hole is drawn as one");
  assert.deepEqual(band(series.columns), { low: [null, 0], high: [null, 3] }, "the band never goes below nothing");
});

test("marks become bans and stretches of anomaly, also when the record begins in one", async () => {
  const { Series } = await load("series.ts");
  const series = new Series(1_000, 1);
  series.push(status(10));
  const events = [
    ["global_anomaly_ended", 20],
    ["banned", 21],
    ["banned", 22],
    ["lifted", 23],
    ["global_anomaly_started", 30],
    ["global_anomaly_started", 31],
    ["global_anomaly_ended", 40],
    ["global_anomaly_started", 50],
  ];
  for (const [kind, at] of events) series.mark({ id: at, at_ms: at * 1000, kind, severity: "info", client: null, text: "" });
  assert.deepEqual(series.anomalies(), [
    { from: 10, to: 20 },
    { from: 30, to: 40 },
    { from: 50, to: null },
  ]);
  assert.deepEqual(series.bans(10), [{ at: 25, count: 2 }]);
});
