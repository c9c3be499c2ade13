// What every test of the page needs: Chromium, pages that note everything that goes wrong in them, and waiting with a
// deadline. Tests say what they want; this file knows how.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

/** What headless Chromium needs in a container, and nothing that talks to anybody else. */
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
 * Opens the page in a context of its own. `faults` collects what must not happen: errors, violations of the policy,
 * requests to anywhere else.
 */
export async function open(browser, url, { width = 1440, height = 900, ...context } = {}) {
  const page = await browser.newPage({ viewport: { width, height }, ...context });
  page.faults = [];
  const origin = new URL(url).origin;
  page.on("pageerror", (error) => page.faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // Requests that fail while the agent is away are told by the page itself.
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

/** As `open`, and waits for the first facts. */
export async function openLive(browser, url, options) {
  const page = await open(browser, url, options);
  await reaches(page, () => document.body.dataset.link === "live", "live");
  return page;
}

/** Ends the page; fails when anything went wrong in it meanwhile. */
export async function close(page) {
  const violations = await page.evaluate(() => window.violations);
  await page.context().close();
  assert.deepEqual([...page.faults, ...violations], [], "what went wrong in the page");
}

/** Waits until `condition` holds in the page; says what did not happen when it does not within `ms`. */
export async function reaches(page, condition, what, { ms = 15_000, argument = undefined } = {}) {
  try {
    await page.waitForFunction(condition, argument, { timeout: ms, polling: 50 });
  } catch (error) {
    throw new Error(`within ${ms} ms the page did not become: ${what}`, { cause: error });
  }
}

/** Waits until a banned client's row is there, or is not. */
export function rowIs(page, client, wanted, { ms = 3_000 } = {}) {
  const isThere = ([client, wanted]) => [...document.querySelectorAll(".ban .address")].some((cell) => cell.textContent === client) === (wanted === "shown");
  return reaches(page, isThere, `${client} ${wanted}`, { ms, argument: [client, wanted] });
}

/** The row of a banned client. */
export function row(page, client) {
  return page.locator(".ban", { has: page.getByText(client, { exact: true }) });
}

/** Fails when axe finds anything. */
export async function assertAccessible(page, where) {
  // axe comes in through the protocol, not through the page: the policy would not let it in.
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(await axeSource());
  const found = await page.evaluate((tags) => window.axe.run(document, { runOnly: { type: "tag", values: tags } }), AXE_RULES);
  const violations = found.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.target} (${node.failureSummary})`).join("; ")}`);
  assert.deepEqual(violations, [], `axe, ${where}`);
}

let axe;

async function axeSource() {
  const { readFile } = await import("node:fs/promises");
  axe ??= readFile(AXE, "utf8");
  return axe;
}
