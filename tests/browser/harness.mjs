// Shared by the tests of the page: Chromium, pages that collect every fault, and waiting with a deadline.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { FakeAgent } from "../../dashboard/web/dev-server/fake-agent.mjs";
import { serve } from "../../dashboard/web/dev-server/server.mjs";

/** Flags that headless Chromium needs in a container, and those that keep it from contacting other servers. */
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

/** WCAG 2.2 A and AA, and axe's own best practices. */
const AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

export function launch() {
  return chromium.launch({ executablePath: process.env.SHIELD_CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
}

/**
 * By browser, the context of all pages that ask for nothing special, with a page that stays: a context of its own costs a page a third of its
 * time, and a window as much again, which Chromium closes with its last page.
 */
const shared = new WeakMap();

async function sharedContext(browser) {
  if (!shared.has(browser)) {
    const context = await browser.newContext();
    shared.set(browser, { context, stays: await context.newPage() });
  }
  return shared.get(browser).context;
}

async function newPage(browser, viewport, options) {
  if (Object.keys(options).length > 0) return browser.newPage({ viewport, ...options });
  const page = await (await sharedContext(browser)).newPage();
  await page.setViewportSize(viewport);
  return page;
}

/** Closes all pages that are open, and what only they needed. */
async function closeAll(browser) {
  const { context, stays } = shared.get(browser) ?? {};
  const pages = (context?.pages() ?? []).filter((page) => page !== stays);
  const contexts = browser.contexts().filter((other) => other !== context);
  await Promise.all([...pages, ...contexts].map((left) => left.close()));
}

/**
 * Opens the page; another port is another origin, with a storage of its own. `faults` collects errors, violations of the policy, and
 * requests to other servers.
 */
export async function open(browser, url, { width = 1440, height = 900, ...options } = {}) {
  const page = await newPage(browser, { width, height }, options);
  page.setDefaultTimeout(PATIENCE_MS);
  page.faults = [];
  const origin = new URL(url).origin;
  page.on("pageerror", (error) => page.faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // Requests fail while the agent is stopped; the page shows that itself.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) page.faults.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(origin) && !request.url().startsWith("data:")) page.faults.push(`request to ${request.url()}`);
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.goto(url);
  return page;
}

/** As `open`, and waits for the first snapshot. */
export async function openLive(browser, url, options) {
  const page = await open(browser, url, options);
  await reaches(page, () => document.body.dataset.link === "live", "live");
  return page;
}

/** Closes the page; fails if it has faults. */
export async function close(page) {
  const violations = await page.evaluate(() => window.violations);
  const context = page.context();
  await page.close();
  if (context !== shared.get(context.browser())?.context) await context.close();
  assert.deepEqual([...page.faults, ...violations], [], "faults of the page");
}

/** Runs `body` with a page on an agent of that scenario. */
export async function onPage(browser, scenario, options, body) {
  const server = await serve(new FakeAgent(scenario));
  try {
    const page = await openLive(browser, server.url, options);
    await body(page, server);
    await close(page);
  } finally {
    // Pages of a test that failed would go on asking for as long as the browser runs, and slow down all that come after it.
    await closeAll(browser);
    await server.stop();
  }
}

/** For what must come, also on a machine that is very busy; only a failure takes that long. */
const PATIENCE_MS = 60_000;

/** Waits until `condition` holds in the page; the error names `what` did not happen within `ms`. */
export async function reaches(page, condition, what, { ms = PATIENCE_MS, argument = undefined } = {}) {
  try {
    await page.waitForFunction(condition, argument, { timeout: ms, polling: 50 });
  } catch (error) {
    throw new Error(`within ${ms} ms the page did not become: ${what}`, { cause: error });
  }
}

/** Waits until the page's address has this behind it, and this side knows: the page writes it after what is clicked, and tells of it later. */
export function isAt(page, hash) {
  return page.waitForURL((url) => url.hash === hash);
}

/** Waits until a banned client's row is shown, or gone. */
export function rowIs(page, client, wanted, { ms = 3_000 } = {}) {
  const isThere = ([client, wanted]) => [...document.querySelectorAll(".ban .address")].some((cell) => cell.textContent === client) === (wanted === "shown");
  return reaches(page, isThere, `${client} ${wanted}`, { ms, argument: [client, wanted] });
}

/** The row of a banned client. */
export function row(page, client) {
  return page.locator(".ban", { has: page.getByText(client, { exact: true }) });
}

/** The seconds of a countdown. */
export const seconds = (clock) => clock.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);

/**
 * Fails unless the row of a banned client counts down: from `term` seconds, only down, and never ahead of the ban's end. Behind it a busy
 * machine may be at any time. The page itself notes what it shows: whoever asks it from outside misses some.
 */
export async function assertCountsDown(page, client, term) {
  await page.evaluate((client) => {
    const left = () => [...document.querySelectorAll(".ban")].find((row) => row.querySelector(".address")?.textContent === client)?.querySelector(".left")?.textContent;
    window.shown = [];
    const note = () => left() && left() !== window.shown.at(-1)?.left && window.shown.push({ left: left(), at: Date.now() });
    note();
    new MutationObserver(note).observe(document.body, { subtree: true, childList: true, characterData: true });
  }, client);
  await reaches(page, () => window.shown.length >= 4, "counted down");
  const [shown, ends] = await page.evaluate(async (client) => {
    const { bans } = await (await fetch("api/v1/bans?limit=100")).json();
    return [window.shown, bans.find((ban) => ban.client === client).ends_ms];
  }, client);
  const lefts = shown.map(({ left }) => seconds(left));
  assert.ok(lefts[0] <= term && lefts[0] > term - 30, `from its term: ${lefts}`);
  assert.ok(lefts.every((left, at) => at === 0 || left < lefts[at - 1]), `only down: ${lefts}`);
  const steps = lefts.slice(1).map((left, at) => lefts[at] - left);
  assert.ok(Math.min(...steps) <= 2, `second by second: ${lefts}`);
  const ahead = shown.map(({ at }, index) => (ends - at) / 1_000 - lefts[index]);
  assert.ok(Math.max(...ahead) < 2, `ahead of the ban's end by ${ahead} s`);
}

/** Fails if axe finds a violation. */
export async function assertAccessible(page, where) {
  // Evaluated through the protocol, because the policy keeps scripts out of the page.
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(await axeSource());
  // In the page: all that axe finds in order is many times as much, and takes longer on its way here than axe does.
  const violations = await page.evaluate(async (tags) => {
    const found = await window.axe.run(document, { runOnly: { type: "tag", values: tags }, resultTypes: ["violations"] });
    return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.target} (${node.failureSummary})`).join("; ")}`);
  }, AXE_RULES);
  assert.deepEqual(violations, [], `axe, ${where}`);
}

let axe;

async function axeSource() {
  const { readFile } = await import("node:fs/promises");
  axe ??= readFile(AXE, "utf8");
  return axe;
}
