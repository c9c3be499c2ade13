// What the page looks like in every layout, and for whom: widths, colour schemes, accessibility. Apart from page.test.mjs, because it takes as
// long as all of that.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { FakeAgent, SCENARIOS } from "../../dashboard/web/dev-server/fake-agent.mjs";
import { serve } from "../../dashboard/web/dev-server/server.mjs";
import { assertAccessible, close, launch, onPage, openLive, reaches } from "./harness.mjs";

const SCREENSHOTS = process.env.SHIELD_SCREENSHOTS ?? fileURLToPath(new URL("../../target/page-screenshots/", import.meta.url));
const SCHEMES = ["dark", "light"];
const WIDTHS = [360, 768, 1440];

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

const withPage = (...what) => onPage(browser, ...what);

/** Every layout and both schemes for the fullest scenario, each of them once for the others. */
const EVERY_LOOK = WIDTHS.flatMap((width) => SCHEMES.map((scheme) => [width, scheme]));
const LOOKS = { attack: EVERY_LOOK, sites: EVERY_LOOK, million: [[768, "dark"]] };
const OTHER_LOOKS = [
  [1440, "dark"],
  [360, "light"],
];

for (const scenario of Object.keys(SCENARIOS)) {
  test(`${scenario}: nothing is wider than the screen, and axe finds nothing`, () =>
    withPage(scenario, {}, async (page) => {
      if (await page.locator(".opener").count()) await page.locator(".opener").first().click();
      for (const [width, colorScheme] of LOOKS[scenario] ?? OTHER_LOOKS) {
        await page.setViewportSize({ width, height: 900 });
        await page.emulateMedia({ colorScheme });
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(overflow <= 0, `${overflow} px too wide at ${width} px`);
        await assertAccessible(page, `${scenario}, ${colorScheme}, ${width} px`);
      }
    }));
}

test("dialogs and the disconnected state are accessible", async () => {
  for (const colorScheme of SCHEMES) {
    const server = await serve(new FakeAgent("attack"));
    const page = await openLive(browser, server.url, { colorScheme });
    await page.getByRole("button", { name: /^Lift / }).first().click();
    await assertAccessible(page, `asking, ${colorScheme}`);
    await page.keyboard.press("Escape");
    await page.locator(".clients .plain").first().click();
    await page.getByText("Rules, as of now").waitFor();
    await page.locator(".rule summary").first().click();
    await assertAccessible(page, `explaining, ${colorScheme}`);
    await page.keyboard.press("Escape");
    await server.stop();
    await page.getByText("Disconnected from the agent").waitFor();
    await assertAccessible(page, `disconnected, ${colorScheme}`);
    await close(page);
  }
});

test("in the user's own colours everything is there, and axe finds nothing", () =>
  withPage("overrun", { forcedColors: "active" }, async (page) => {
    await page.getByText("Gets through: 37 requests").first().waitFor();
    await assertAccessible(page, "forced colours");
    const marked = await page.evaluate(() => getComputedStyle(document.querySelector("#ranges input:checked + label")).backgroundColor !== getComputedStyle(document.querySelector("#ranges input:not(:checked) + label")).backgroundColor);
    assert.ok(marked, "the chosen span can be told from the others");
    // It was one black shape: the colours of the canvas had been read in the user's own.
    const colours = await page.evaluate(() => {
      const canvas = document.querySelector("#rate-plot canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const seen = new Map();
      for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] < 250) continue;
        const colour = `${data[at]},${data[at + 1]},${data[at + 2]}`;
        seen.set(colour, (seen.get(colour) ?? 0) + 1);
      }
      return [...seen.values()].filter((pixels) => pixels > 1_000).length;
    });
    assert.ok(colours >= 2, `${colours} colours of some size in the plot`);
  }));

test("screenshots are kept for review", async () => {
  await mkdir(SCREENSHOTS, { recursive: true });
  const scenarios = [
    ["overrun", "overrun-", { fullPage: false }],
    ["sites", "sites-", { fullPage: true }],
    ["attack", "", { fullPage: true }],
  ];
  for (const [scenario, prefix, options] of scenarios) {
    await withPage(scenario, {}, async (page) => {
      if (scenario === "sites") await page.locator("#site").selectOption("shop.example.org");
      await reaches(page, () => document.querySelectorAll(".ban").length > 0 && document.querySelector("#rate-plot[aria-label*=highest]") !== null, "filled");
      for (const [width, colorScheme] of EVERY_LOOK) {
        await page.setViewportSize({ width, height: 900 });
        await page.emulateMedia({ colorScheme });
        // The plots are drawn anew in the frame after the one that tells them.
        await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
        await page.screenshot({ path: `${SCREENSHOTS}/${prefix}${width}-${colorScheme}.png`, ...options });
      }
    });
  }
});
