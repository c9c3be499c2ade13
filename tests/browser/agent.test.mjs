// The page of the real agent. `tests/tests/browser.rs` sets up server, nginx, agent and attacker and runs this file inside;
// `world(step)` requests a step outside the browser.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createInterface } from "node:readline";
import { assertAccessible, assertCountsDown, close, launch, openLive, reaches, row, rowIs, seconds } from "./harness.mjs";

const { SHIELD_PAGE: PAGE, SHIELD_TOKEN: TOKEN, SHIELD_ATTACKER: ATTACKER, SHIELD_SCREENSHOTS: SCREENSHOTS } = process.env;

/** In the path that the attacker requests. */
const SCRIPT = "<script>window.hacked=1</script>";

/** For the agent's stop and start and the page's next attempt, on a machine that runs other tests as well. */
const RESTART_MS = 30_000;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Requests a step outside the browser, and waits until it is done. */
async function world(step) {
  process.stdout.write(`world: ${step}\n`);
  const { value, done } = await answers.next();
  assert.ok(!done && value === "done", `could not ${step}: ${value}`);
}

let browser;
let page;
before(async () => {
  browser = await launch();
  page = await openLive(browser, PAGE);
});
after(async () => {
  await browser.close();
  process.stdin.destroy();
});

const secondsLeft = async () => seconds((await row(page, ATTACKER).locator(".left").textContent()) ?? "");

test("before the attack nobody is banned and every part has a state", async () => {
  await page.getByText("Nobody is banned.").waitFor();
  const parts = await page.locator(".part-name").allTextContents();
  for (const part of ["iptables", "XDP", "Store", "Detector"]) assert.ok(parts.includes(part), `${part} in ${parts}`);
});

test("the ban is shown within 3 s of the attack, with its evidence", async () => {
  await world("attack");
  await rowIs(page, ATTACKER, "shown", { ms: 3_000 });
  await reaches(page, (client) => document.getElementById("events").textContent.includes(client), "an event about it", { argument: ATTACKER });
});

test("a path of <script> is text", async () => {
  await row(page, ATTACKER).getByRole("button", { name: `Evidence against ${ATTACKER}` }).click();
  await page.locator(".paths code", { hasText: SCRIPT }).first().waitFor();
  assert.deepEqual(await page.evaluate(() => ["hacked" in window, document.scripts.length]), [false, 1]);
});

test("it counts down, and what is dropped is counted", async () => {
  await assertCountsDown(page, ATTACKER, 600);
  await reaches(page, () => /[1-9]/.test(document.querySelector(".ban [data-label=Dropped] span").textContent), "dropped packets counted", { ms: 10_000 });
  await page.screenshot({ path: `${SCREENSHOTS}/agent-under-attack.png`, fullPage: true });
  await assertAccessible(page, "under attack");
});

test("the page survives a restart of the agent, and so does the ban", async () => {
  const before = await secondsLeft();
  await page.evaluate(() => (window.stillTheSamePage = true));
  await world("stop the agent");
  await page.getByText("Disconnected from the agent").waitFor({ timeout: 10_000 });
  await world("start the agent");
  await reaches(page, () => document.body.dataset.link === "live", "live again", { ms: RESTART_MS });
  await rowIs(page, ATTACKER, "shown");
  assert.ok((await secondsLeft()) < before, "the same ban, not a new one");
  assert.equal(await page.evaluate(() => window.stillTheSamePage), true);
});

test("the ban is lifted by its button, with the token", async () => {
  await world("end the attack");
  await row(page, ATTACKER).getByRole("button", { name: `Lift ${ATTACKER}` }).click();
  await page.getByLabel("Token").fill(TOKEN);
  await page.getByRole("button", { name: "Lift the ban" }).click();
  await rowIs(page, ATTACKER, "gone", { ms: 10_000 });
  await world("serve the attacker");
  await close(page);
});
