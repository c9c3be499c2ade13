// When Chromium paints the page first, and when an empty page from a bare server beside it: by turns, so that both meet the same
// machine. `bench-page` runs it; one line of JSON is printed for each kind of load.
//
//     SHIELD_PAGE=http://127.0.0.1:8080/ node first-paint.mjs [loads]

import { createServer } from "node:http";
import { launch } from "./harness.mjs";

const PAGE = process.env.SHIELD_PAGE;
const LOADS = Number(process.argv[2] ?? 50);
/** The first loads start Chromium's own processes. */
const WARM_UP = 3;
const EMPTY = "<!doctype html><html lang=en><title>empty</title><p>empty</p>";

/** Milliseconds from the start of the navigation to the first paint, and to the first one with text. */
async function paint(page, go) {
  await go();
  const times = await page.evaluate(
    () =>
      new Promise((resolve) => {
        const look = () => {
          const found = Object.fromEntries(performance.getEntriesByType("paint").map(({ name, startTime }) => [name, startTime]));
          if (found["first-contentful-paint"] === undefined) setTimeout(look, 5);
          else resolve(found);
        };
        look();
      }),
  );
  return { first: times["first-paint"], text: times["first-contentful-paint"] };
}

/** A load with an empty cache, and one where the browser has the files and asks whether they are still the same. */
async function load(browser, url) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  const cold = await paint(page, () => page.goto(url, { waitUntil: "commit" }));
  const again = await paint(page, () => page.reload({ waitUntil: "commit" }));
  await context.close();
  return { cold, again };
}

const quantile = (values, share) => values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.ceil(share * values.length) - 1)];

const server = createServer((_, response) => response.writeHead(200, { "content-type": "text/html" }).end(EMPTY));
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const empty = `http://127.0.0.1:${server.address().port}/`;
const browser = await launch();
const seen = { page: [], empty: [] };
for (let at = 0; at < LOADS + WARM_UP; at += 1) {
  for (const [what, url] of [["page", PAGE], ["empty", empty]]) {
    const times = await load(browser, url);
    if (at >= WARM_UP) seen[what].push(times);
  }
}
await browser.close();
server.close();
for (const kind of ["cold", "again"]) {
  const of = (what, share) => Number(quantile(seen[what].map((times) => times[kind].text), share).toFixed(1));
  const figures = { loads: LOADS, page_p50_ms: of("page", 0.5), page_p99_ms: of("page", 0.99), empty_p50_ms: of("empty", 0.5), empty_p99_ms: of("empty", 0.99) };
  console.log(JSON.stringify({ load: kind, ...figures, ratio_p50: Number((figures.page_p50_ms / figures.empty_p50_ms).toFixed(2)) }));
}
