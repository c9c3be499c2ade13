// The page in a real browser, against a fake agent. agent.test.mjs runs against the real one.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { FakeAgent, SCENARIOS } from "../../dashboard/web/dev-server/fake-agent.mjs";
import { serve, TOKEN } from "../../dashboard/web/dev-server/server.mjs";
import { assertAccessible, close, launch, open, openLive, reaches, row, rowIs } from "./harness.mjs";

const SCREENSHOTS = process.env.SHIELD_SCREENSHOTS ?? fileURLToPath(new URL("../../target/page-screenshots/", import.meta.url));
const CLIENT = "198.51.100.42";
const SCHEMES = ["dark", "light"];
const WIDTHS = [360, 768, 1440];

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

/** Runs `body` with a page on an agent of that scenario. */
async function withPage(scenario, options, body) {
  const server = await serve(new FakeAgent(scenario));
  try {
    const page = await openLive(browser, server.url, options);
    await body(page, server);
    await close(page);
  } finally {
    await server.stop();
  }
}

const leftOf = async (page, client) => (await row(page, client).locator(".left").textContent()) ?? "";
const seconds = (clock) => clock.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);

describe("bans", () => {
  test("a new ban is shown within 3 s, with its rule and its evidence", () =>
    withPage("calm", {}, async (page, { agent }) => {
      agent.makeBan(CLIENT, { secs: 600, rule: "probing" });
      await rowIs(page, CLIENT, "shown");
      const text = (await row(page, CLIENT).textContent()) ?? "";
      assert.match(text, /Probing.*14 different paths that do not exist/);
      await reaches(page, (client) => document.getElementById("events").textContent.includes(`Banned ${client}`), "an event about it", { argument: CLIENT });
    }));

  test("the time left counts down every second and ends", () =>
    withPage("calm", {}, async (page, { agent }) => {
      agent.makeBan(CLIENT, { secs: 600 });
      await rowIs(page, CLIENT, "shown");
      const seen = [];
      const deadline = Date.now() + 4_500;
      while (Date.now() < deadline) {
        const left = seconds(await leftOf(page, CLIENT));
        if (left !== seen.at(-1)) seen.push(left);
        await page.waitForTimeout(100);
      }
      assert.ok(seen.length >= 4, `in 4.5 s: ${seen}`);
      assert.ok(seen[0] <= 600 && seen[0] > 590, `starts at its term: ${seen}`);
      for (let at = 1; at < seen.length; at += 1) assert.ok([1, 2].includes(seen[at - 1] - seen[at]), `second by second: ${seen}`);

      agent.makeBan(CLIENT, { secs: 2 });
      await reaches(page, () => [...document.querySelectorAll(".left")].some((left) => left.textContent === "ending"), "ending");
    }));

  test("is lifted by its button, after asking for the token once", () =>
    withPage("calm", {}, async (page, { agent }) => {
      agent.makeBan(CLIENT);
      agent.makeBan("198.51.100.43");
      await rowIs(page, CLIENT, "shown");
      await row(page, CLIENT).getByRole("button", { name: `Lift ${CLIENT}` }).click();
      const dialog = page.getByRole("dialog", { name: `Lift the ban of ${CLIENT}` });
      await dialog.getByLabel("Token").fill("wrong");
      await dialog.getByRole("button", { name: "Lift the ban" }).click();
      await dialog.getByText("This token is wrong.").waitFor();
      await dialog.getByLabel("Token").fill(TOKEN);
      await dialog.getByRole("button", { name: "Lift the ban" }).click();
      await dialog.waitFor({ state: "hidden" });
      await rowIs(page, CLIENT, "gone");
      assert.equal(agent.isBanned(CLIENT), false);

      await page.getByRole("button", { name: "Lift 198.51.100.43" }).click();
      assert.equal(await page.getByLabel("Token").isVisible(), false, "asked for the token once only");
      await page.getByRole("button", { name: "Lift the ban" }).click();
      await rowIs(page, "198.51.100.43", "gone");
      assert.equal(await page.evaluate(() => JSON.stringify(Object.values(localStorage))).then((kept) => kept.includes("dev-token")), false, "kept in the session only");
    }));

  test("a client can be allowed, and a refusal is shown", () =>
    withPage("calm", {}, async (page, { agent }) => {
      agent.makeBan(CLIENT);
      await rowIs(page, CLIENT, "shown");
      await row(page, CLIENT).getByRole("button", { name: "Allow" }).click();
      await page.getByLabel("Token").fill(TOKEN);
      await page.getByRole("button", { name: "Allow always" }).click();
      await rowIs(page, CLIENT, "gone");
      assert.equal(agent.allowed.has(CLIENT), true);

      agent.makeBan("198.51.100.43");
      await rowIs(page, "198.51.100.43", "shown");
      await page.getByRole("button", { name: "Lift 198.51.100.43" }).click();
      agent.unban(["198.51.100.43"]);
      await page.getByRole("button", { name: "Lift the ban" }).click();
      await page.getByText("198.51.100.43: was not banned").waitFor();
    }));

  test("a million of them can be paged, searched and filtered", () =>
    withPage("million", {}, async (page) => {
      const range = (text) => reaches(page, (text) => document.getElementById("bans-range").textContent === text, text, { argument: text });
      await range("1–25 of 1,000,000");
      await page.getByRole("button", { name: "Next" }).click();
      await range("26–50 of 1,000,000");
      assert.equal(await page.locator(".ban").count(), 25, "one page of rows, whatever there is");
      await page.getByRole("button", { name: "Previous" }).click();
      await range("1–25 of 1,000,000");

      await page.getByLabel("Search").fill("2001:db8:f:423f");
      await range("1–1 of 1");
      assert.equal(await page.locator(".ban .address").textContent(), "2001:db8:f:423f::/64");
      await page.getByLabel("Search").fill("no such client");
      await page.getByText("No banned client matches.").waitFor();
      await page.getByLabel("Search").fill("");
      await page.getByLabel("Rule").selectOption("flood");
      await reaches(page, () => [...document.querySelectorAll(".ban [data-rule]")].every((badge) => badge.dataset.rule === "flood"), "only floods");
    }));
});

test("a request's path of <script> is text, wherever it is shown", () =>
  withPage("calm", {}, async (page, { agent }) => {
    const path = "/<script>window.hacked=1</script><img src=x onerror=window.hacked=1>";
    agent.makeBan(CLIENT, { path });
    await rowIs(page, CLIENT, "shown");
    await row(page, CLIENT).getByRole("button", { name: CLIENT, exact: true }).click();
    await page.locator(".paths code", { hasText: path }).waitFor();
    await page.locator("#events", { hasText: path }).waitFor();
    const found = await page.evaluate(() => ({ hacked: "hacked" in window, scripts: document.scripts.length, images: document.images.length }));
    assert.deepEqual(found, { hacked: false, scripts: 1, images: 0 });
  }));

// Its details stayed empty: the agent leaves empty lists out, and the page took them for granted.
test("a ban whose evidence has neither values nor paths can be opened", () =>
  withPage("calm", {}, async (page, { agent }) => {
    const ban = agent.ban.bind(agent);
    agent.ban = (client) => {
      const { measures, top_paths: paths, ...evidence } = ban(client).evidence ?? {};
      return { ...ban(client), evidence };
    };
    agent.makeBan(CLIENT);
    await rowIs(page, CLIENT, "shown");
    await row(page, CLIENT).getByRole("button", { name: CLIENT, exact: true }).click();
    await page.getByRole("heading", { name: "The evidence" }).first().waitFor();
  }));

test("the browser itself refuses markup: the policy is in force", () =>
  withPage("calm", {}, async (page) => {
    const refused = await page.evaluate(() => {
      try {
        document.body.innerHTML = "<p>markup";
        return "accepted";
      } catch (error) {
        return error.name;
      }
    });
    assert.equal(refused, "TypeError");
    await page.evaluate(() => (window.violations = []));
    page.faults = [];
  }));

describe("the posture", () => {
  const shown = (page) => page.locator("#posture").textContent();

  test("is the same in the header, the title and the tab's icon", async () => {
    const icons = new Set();
    for (const [scenario, title] of [["calm", "Quiet"], ["attack", "Under attack, handled"], ["warming", "Learning"], ["overrun", "Under attack, NOT handled"], ["empty", "Blind"]]) {
      await withPage(scenario, {}, async (page) => {
        await reaches(page, (title) => document.title === `${title} · web-01.example.net`, title, { argument: title });
        assert.ok((await shown(page)).startsWith(`${title} `), await shown(page));
        icons.add(await page.locator("link[rel=icon]").getAttribute("href"));
      });
    }
    assert.equal(icons.size, 4, "one colour for each degree of worry");
  });

  test("clients that get through are listed by network, and a network is banned from there", () =>
    withPage("overrun", {}, async (page, { agent }) => {
      await page.getByText("48 clients get through", { exact: true }).waitFor();
      await page.getByText("203.0.113.0/24 (46), 2001:db8:77::/48 (2)").waitFor();
      await page.getByRole("button", { name: "Ban 203.0.113.0/24 for 1 h" }).click();
      await page.getByLabel("Token").fill(TOKEN);
      await page.getByRole("button", { name: "Ban", exact: true }).click();
      await rowIs(page, "203.0.113.0/24", "shown");
      assert.equal(agent.isBanned("203.0.113.0/24"), true);
    }));
});

describe("the link", () => {
  test("shows that it is disconnected when the agent stops, and reconnects by itself", async () => {
    const first = await serve(new FakeAgent("calm"));
    const page = await openLive(browser, first.url);
    await page.evaluate(() => (window.stillTheSamePage = true));
    await first.stop();
    await page.getByText("Disconnected from the agent").waitFor({ timeout: 8_000 });
    assert.equal(await page.locator("#link-text").textContent(), "Disconnected");

    const agent = new FakeAgent("calm");
    agent.makeBan(CLIENT);
    const second = await serve(agent, first.port);
    await reaches(page, () => document.body.dataset.link === "live", "live again", { ms: 8_000 });
    await rowIs(page, CLIENT, "shown");
    assert.equal(await page.getByText("Disconnected from the agent").count(), 0);
    assert.equal(await page.evaluate(() => window.stillTheSamePage), true);
    await close(page);
    await second.stop();
  });

  test("polls when it cannot stream, and is as fresh", async () => {
    const server = await serve(new FakeAgent("calm"));
    server.options.streams = false;
    const page = await open(browser, server.url);
    await reaches(page, () => document.getElementById("link-text").textContent === "Live, by polling", "polling");
    server.agent.makeBan(CLIENT);
    await rowIs(page, CLIENT, "shown");
    await close(page);
    await server.stop();
  });
});

describe("people", () => {
  test("see times in their own zone", () =>
    withPage("calm", { timezoneId: "Asia/Tokyo", locale: "en-GB" }, async (page, { agent }) => {
      agent.makeBan(CLIENT);
      await rowIs(page, CLIENT, "shown");
      const since = await row(page, CLIENT).locator(".sub").first().textContent();
      const expected = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "Asia/Tokyo" }).format(new Date(agent.ban(CLIENT).since_ms));
      assert.equal(since, `since ${expected}`);
      assert.match((await page.locator("#foot-zone").textContent()) ?? "", /Asia\/Tokyo/);
      // Slots are UTC hours; Tokyo is 9 hours ahead.
      const [busiest] = agent.status().hour_profile.sort((a, b) => b.mean - a.mean);
      assert.match((await page.locator("#hours svg").getAttribute("aria-label")) ?? "", new RegExp(`Busiest ${(busiest.hour + 9) % 24}:00 `));
    }));

  test("can do everything by keyboard", () =>
    withPage("calm", {}, async (page, { agent }) => {
      agent.makeBan(CLIENT);
      await rowIs(page, CLIENT, "shown");
      const focused = () => page.evaluate(() => document.activeElement?.textContent?.trim() ?? "");
      await page.keyboard.press("Tab");
      assert.equal(await focused(), "Skip to the banned clients");
      await page.keyboard.press("Enter");
      for (let presses = 0; presses < 6 && (await focused()) !== CLIENT; presses += 1) await page.keyboard.press("Tab");
      assert.equal(await focused(), CLIENT, "the first row is a few presses away");
      await page.keyboard.press("Enter");
      await page.locator(".ban-details").first().waitFor();
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      await page.getByRole("dialog").waitFor();
      await page.keyboard.press("Escape");
      await page.getByRole("dialog").waitFor({ state: "hidden" });
      assert.equal(await focused(), "Lift", "focus returns to where it was");
      await page.waitForTimeout(3_000);
      assert.equal(await focused(), "Lift", "refreshing the table does not take focus away");
    }));

  test("choose dark or light, and the choice stays", () =>
    withPage("calm", { colorScheme: "light" }, async (page) => {
      const background = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
      const light = await background();
      await page.getByRole("button", { name: /^Colours: Auto/ }).click();
      const dark = await background();
      assert.notEqual(dark, light);
      await page.reload();
      assert.equal(await background(), dark);
    }));
});

/** Every layout and both schemes for the fullest scenario, each of them once for the others. */
const LOOKS = { attack: WIDTHS.flatMap((width) => SCHEMES.map((scheme) => [width, scheme])), million: [[768, "dark"]] };
const OTHER_LOOKS = [
  [1440, "dark"],
  [360, "light"],
];

describe("looks", () => {
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
      await page.locator(".clients .address").first().click();
      await page.getByText("Rules, as of now").waitFor();
      await page.locator(".rule summary").first().click();
      await assertAccessible(page, `explaining, ${colorScheme}`);
      await page.keyboard.press("Escape");
      await server.stop();
      await page.getByText("Disconnected from the agent").waitFor({ timeout: 8_000 });
      await assertAccessible(page, `disconnected, ${colorScheme}`);
      await close(page);
    }
  });

  test("screenshots are kept for review", async () => {
    await mkdir(SCREENSHOTS, { recursive: true });
    for (const width of WIDTHS) {
      for (const colorScheme of SCHEMES) {
        await withPage("overrun", { width, colorScheme }, async (page) => {
          await reaches(page, () => document.querySelectorAll(".ban").length > 0, "filled");
          await page.screenshot({ path: `${SCREENSHOTS}/overrun-${width}-${colorScheme}.png` });
        });
        await withPage("attack", { width, colorScheme }, async (page) => {
          await reaches(page, () => document.querySelectorAll(".ban").length > 0 && document.querySelector("#rate-plot[aria-label*=highest]") !== null, "filled");
          await page.screenshot({ path: `${SCREENSHOTS}/${width}-${colorScheme}.png`, fullPage: true });
        });
      }
    }
  });
});

test("nothing goes wrong while everything is used", () =>
  withPage("attack", {}, async (page) => {
    for (const label of ["30 min", "24 h", "Live"]) {
      await page.locator("#ranges").getByText(label, { exact: true }).click();
      await page.locator("#rate-plot").hover();
    }
    await page.getByRole("button", { name: /^Colours/ }).click();
    await page.setViewportSize({ width: 500, height: 800 });
    await page.setViewportSize({ width: 1200, height: 800 });
    await page.locator(".opener").first().click();
    await page.getByRole("button", { name: "Explain this client" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  }));
