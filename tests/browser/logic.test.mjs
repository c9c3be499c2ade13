// The parts of the page that need no browser: the event stream, the data of the plots, number formatting.

import assert from "node:assert/strict";
import { test } from "node:test";
import { loadSource as load } from "./source.mjs";

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
  assert.deepEqual(series.bans(10), [{ at: 25, count: 2, secs: 10 }]);
  // The marks regrouped while the plot moved on: they are of whole stretches of the clock.
  for (const least of [5.2, 7, 9.9]) assert.deepEqual(series.bans(least), series.bans(10), `at least ${least} s`);
});

const history = (over) => ({ at_ms: [0, 2_000, 4_000], step_secs: 2, rate: [4, 4, 4], banned_rate: [0, 3, 1], error_rate: [0, 0, 0], mean: [1, 1, 1], stddev: [1, 1, 1], dropped_packets_per_sec: [0, 0, 0], dropped_bytes_per_sec: [0, 0, 0], marks: [], ...over });

// A hole stood in the curve after each loading of the page.
test("a history whose newest step has no sample yet leaves no hole", async () => {
  const { Series } = await load("series.ts");
  const series = new Series(300, 2);
  series.load(history({ rate: [4, 4, null] }));
  assert.deepEqual(series.columns.at, [0, 2]);
  series.push(status(5, 6));
  assert.deepEqual(series.columns.rate, [4, 4, 6]);
  series.load(history({ rate: [4, null, null] }));
  assert.deepEqual(series.columns.rate, [4, null, null], "a longer silence is one");
});

test("the live seconds are the agent's, and turn into an attacker's when he is banned", async () => {
  const { Series } = await load("series.ts");
  const series = new Series(300, 1);
  series.load(history({}));
  assert.deepEqual(series.columns.at, [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(series.columns.visitors, [4, 4, 1, 1, 3, 3]);
  const at = (secs, requests, ofBanned) => ({ ...status(secs), global: { rate: 1, error_rate: 0, banned_rate: 0, anomaly: null, seconds: { end_ms: secs * 1000, requests, of_banned: ofBanned } } });
  series.push(at(6, [2, 9, 1], [0, 0, 0]));
  assert.deepEqual(series.columns.all, [4, 4, 4, 4, 2, 9, null], "the newest second is not over");
  series.push(at(7, [2, 9, 8, 1], [0, 7, 6, 0]));
  assert.deepEqual(series.columns.all.slice(4), [2, 9, 8, null]);
  assert.deepEqual(series.columns.visitors.slice(4), [2, 2, 2, null]);
  series.push(at(9, [8, 1, 5, 0], [6, 0, 0, 0]));
  assert.deepEqual(series.columns.at.slice(6), [6, 7, 8, 9], "a snapshot that comes late leaves no second out");
  assert.deepEqual(series.columns.all.slice(6), [8, 1, 5, null]);
});

// After a restart in an anomaly the plot was red to its right edge for as long as the page was open.
test("an anomaly that the agent does not know of is over", async () => {
  const { Series } = await load("series.ts");
  const series = new Series(300, 2);
  series.load(history({ marks: [{ at_ms: 1_000, kind: "anomaly_started", count: 1, text: "" }] }));
  const calm = (secs) => ({ ...status(secs), global: { rate: 1, error_rate: 0, anomaly: null } });
  series.push(calm(6));
  series.push(calm(8));
  assert.deepEqual(series.anomalies(), [{ from: 1, to: 6 }]);
});
