// The page in a real browser, against a fake agent. agent.test.mjs runs against the real one, and
// looks.test.mjs looks at it in every layout.

import assert from "node:assert/strict";
import { readFile, readdir, stat } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { loadSource } from "./source.mjs";
import { FakeAgent } from "../../dashboard/web/dev-server/fake-agent.mjs";
import { serve, TOKEN } from "../../dashboard/web/dev-server/server.mjs";
import { assertAccessible, assertCountsDown, close, isAt, launch, onPage, open, openLive, reaches, row, rowIs, seconds } from "./harness.mjs";

const CLIENT = "198.51.100.42";

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

const withPage = (...what) => onPage(browser, ...what);

const leftOf = async (page, client) => (await row(page, client).locator(".left").textContent()) ?? "";

describe("a canary", () => {
  const hit = (rule, condition, requests, errors) => ({ at_ms: 1_700_000_000_000, rule, condition, requests, errors });
  const difference = (client, more) => ({ client, live: null, canary: null, why_not: null, is_known_good: false, is_search_engine: false, is_served_stranger: false, ...more });
  const running = {
    state: "running",
    name: "/etc/shield/new.toml",
    ns_per_line: 940,
    figures: { observed_secs: 720, lines: 5120, clients: 200, live_bans: 3, canary_bans: 4, only_canary: 2, only_live: 1, known_good: 1, verdict_p99_us: 1000, live_verdict_p99_us: 500 },
    differing: [
      difference(CLIENT, { canary: hit("flood", "24 pages in 30 s: at most 2 <b>x</b>", 24, 0), is_known_good: true }),
      difference("203.0.113.9", { live: hit("probing", "6 probes", 6, 6), why_not: "when the live ban cut it off, probing was nearest" }),
    ],
    refusals: [`it would ban 1 client served well within a day, and live they are not banned: ${CLIENT}`],
  };

  test("is not there without one", () =>
    withPage("calm", {}, async (page) => {
      await page.locator("#allowlist").waitFor();
      assert.equal(await page.locator("#canary").isVisible(), false);
    }));

  test("is shown beside what is in force, with the clients on which they differ and why it may not go live", async () => {
    const server = await serve(Object.assign(new FakeAgent("calm"), { canary: running }));
    try {
      const page = await openLive(browser, server.url, {});
      await page.locator("#canary > summary").click();
      const text = async (selector) => ((await page.locator(selector).textContent()) ?? "").replaceAll(/\s+/g, " ");
      assert.match(await text("#canary-note"), /new\.toml runs, 12 min 0 s observed$/);
      assert.match(await text("#canary-sides"), /Clients banned3, 1\.5 % of 200 clients4, 2\.0 % of 200 clients/);
      assert.match(await text("#canary-sides"), /99 of 100 within0\.5 ms1 ms/);
      assert.match(await text("#canary-sides"), /940 ns a line/);
      assert.match(await text("#canary-refusals"), new RegExp(`served well within a day.*${CLIENT}`));
      const clients = page.locator("#canary-clients li");
      assert.equal(await clients.count(), 2);
      assert.match(await clients.nth(0).textContent(), /only by the canary.*flood: 24 pages in 30 s: at most 2 <b>x<\/b>, 0 of 24 requests failed \(served well before\)/);
      assert.match(await clients.nth(1).textContent(), /only in force.*6 of 6 requests failed; when the live ban cut it off/);
      await assertAccessible(page, "a canary");
      await clients.nth(0).getByRole("button", { name: CLIENT }).click();
      await page.getByRole("dialog").waitFor();
      await close(page);
    } finally {
      await server.stop();
    }
  });
});

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
      await assertCountsDown(page, CLIENT, 600);

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

      await row(page, "198.51.100.43").getByRole("button", { name: "Lift 198.51.100.43" }).click();
      await rowIs(page, "198.51.100.43", "gone");
      assert.equal(await page.getByRole("dialog").isVisible(), false, "asked for the token once only");
      await page.getByRole("button", { name: "Undo" }).click();
      await rowIs(page, "198.51.100.43", "shown");
      assert.ok(seconds(await leftOf(page, "198.51.100.43")) <= 600, "for what was left of its term");
      assert.equal(await page.evaluate(() => JSON.stringify(Object.values(localStorage))).then((kept) => kept.includes("dev-token")), false, "kept in the session only");
    }));

  test("a client can be allowed, and a refusal is shown", () =>
    withPage("calm", {}, async (page, { agent }) => {
      agent.makeBan(CLIENT);
      await rowIs(page, CLIENT, "shown");
      await row(page, CLIENT).getByRole("button", { name: "Never ban" }).click();
      await page.getByLabel("Token").fill(TOKEN);
      await page.getByRole("button", { name: "Never ban it" }).click();
      await rowIs(page, CLIENT, "gone");
      assert.equal(agent.allowed.has(CLIENT), true);

      agent.makeBan("198.51.100.43");
      await rowIs(page, "198.51.100.43", "shown");
      const lift = agent.unban.bind(agent);
      agent.unban = (clients) => (lift(clients), lift(clients));
      await row(page, "198.51.100.43").getByRole("button", { name: "Lift 198.51.100.43" }).click();
      await page.getByText("198.51.100.43: was not banned").waitFor();
    }));

  test("a client is never banned for a week, and is judged again by a button", () =>
    withPage("calm", {}, async (page, { agent }) => {
      await page.locator("#allowlist > summary").click();
      await page.getByRole("button", { name: "Never ban…" }).click();
      await page.getByLabel("Address or network").fill("192.0.2.0/24");
      await page.locator("dialog select").selectOption({ label: "7 d" });
      await page.getByLabel("Reason, for the record (optional)").fill("the auditors");
      await page.getByLabel("Token").fill(TOKEN);
      await page.getByRole("button", { name: "Never ban it" }).click();
      const entry = page.locator("#allowlist-rows li", { hasText: "192.0.2.0/24" });
      await entry.getByText(/allowed by an operator: the auditors, until .+20\d\d/).waitFor();
      const days = (agent.allowedUntil.get("192.0.2.0/24").until - Date.now()) / 86_400_000;
      assert.ok(days > 6.9 && days <= 7, `${days} days`);
      await entry.getByRole("button", { name: "Take 192.0.2.0/24 off the allowlist" }).click();
      await page.getByRole("button", { name: "Take it off the allowlist" }).click();
      await entry.waitFor({ state: "detached" });
      assert.equal(agent.allowedUntil.size, 0);
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

describe("attackers first", () => {
  test("verdict, plot, attackers, paths, networks and kinds are above the fold", () =>
    withPage("attack", { width: 1440, height: 900 }, async (page) => {
      await page.locator(".attacker").nth(3).waitFor();
      for (const place of ["#posture", "#rate-plot", "#drop-plot", ".attacker:nth-child(4)", "#kinds li", "#paths li", "#networks li"]) {
        const bottom = await page.locator(place).first().evaluate((element) => element.getBoundingClientRect().bottom);
        assert.ok(bottom <= 900, `${place} ends at ${bottom}`);
      }
      assert.equal(await page.locator("#health").evaluate((fold) => fold.open), false, "health is one line while all is well");
    }));

  test("on a phone the verdict and the plot come before everything else, then the attackers", () =>
    withPage("attack", { width: 390, height: 844 }, async (page) => {
      await page.locator(".attacker").first().waitFor();
      const top = (place) => page.locator(place).first().evaluate((element) => element.getBoundingClientRect().top);
      assert.ok((await top("#drop-plot")) < 844 - 62, "the plot is above the fold");
      assert.ok((await top(".attackers")) < (await top(".kinds")));
      assert.ok((await top(".kinds")) < (await top("#bans")));
    }));

  test("a leak is said in red on the row of its client, wherever that is", () =>
    withPage("overrun", {}, async (page) => {
      const leak = "Gets through: 37 requests in its last minute reached the web server although it is banned.";
      await page.locator(".attacker[data-leak]", { hasText: "203.0.113.77" }).getByText(leak).waitFor();
      await page.locator(".ban[data-leak]", { hasText: "203.0.113.77" }).getByText(leak).waitFor();
      assert.match((await page.locator(".attacker").first().textContent()) ?? "", /203\.0\.113\.77/, "the first of them");
    }));

  test("who stopped leaves the list: drops are counted over seconds, not since the ban", async () => {
    const { DropRates } = await loadSource("drop-rates.ts");
    const rates = new DropRates();
    const ban = (packets) => [{ client: "192.0.2.1", serial: 1, dropped: { packets, bytes: 0 } }];
    const seen = [[0, 100], [5, 600], [10, 600], [20, 600], [26, 600], [27, 5]].map(([at, packets]) => rates.read(ban(packets), at * 1000).get("192.0.2.1"));
    assert.deepEqual(seen, [undefined, 100, 50, 0, 0, undefined]);
  });

  test("the networks of addresses of every kind", async () => {
    const { networkOf, isAddress } = await loadSource("views/addresses.ts");
    const cases = [
      ["203.0.113.77", "203.0.113.0/24"],
      ["203.0.113.0/24", "203.0.113.0/24"],
      ["203.0.0.0/16", "203.0.0.0/16"],
      ["203.0.113.64/26", "203.0.113.0/24"],
      ["2001:db8:77:1::/64", "2001:db8:77::/48"],
      ["2001:db8::/64", "2001:db8::/48"],
      ["2001:db8:0:1::/64", "2001:db8::/48"],
      ["2001:db8::/32", "2001:db8::/32"],
      ["2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"],
      ["::1", "::/48"],
      ["1.2.3", null],
      ["1:2:3", null],
      ["a::b::c", null],
      ["<script>", null],
    ];
    for (const [client, network] of cases) {
      assert.equal(networkOf(client), network, client);
      assert.equal(isAddress(client), network !== null, client);
    }
  });

  test("a click on a mark of bans shows the events of that time", () => {
    const began = Date.now();
    return withPage("attack", {}, async (page) => {
      await page.locator("#events .event").nth(5).waitFor();
      await reaches(page, () => document.querySelector("#rate-plot[aria-label*='bans']") !== null, "drawn");
      const ban = page.locator("#events", { hasText: "Banned 203.0.113.77" });
      await ban.waitFor();
      // The ban was 214 s before the page was asked for; the plot ends now and is 300 s wide. Where it is drawn late, the click misses.
      const chip = page.locator("#events-chip");
      for (let tries = 0; tries < 60 && !(await chip.isVisible()); tries += 1) {
        const box = await page.locator("#rate-plot .u-over").boundingBox();
        const ago = 214 + (Date.now() - began) / 1_000;
        await page.mouse.click(box.x + box.width * ((300 - ago) / 300), box.y + 6);
        await page.waitForTimeout(300);
      }
      await chip.waitFor();
      const shown = await page.locator("#events .event:visible").allTextContents();
      assert.ok(shown.length >= 1 && shown.length < 4 && shown.some((text) => text.includes("Banned 203.0.113.77")), shown.join("\n"));
      await chip.click();
      await page.locator("#events .event").nth(5).waitFor();
    });
  });
});

describe("finding", () => {
  test("one search looks through attackers, bans and events", () =>
    withPage("attack", {}, async (page) => {
      await page.locator(".attacker").nth(3).waitFor();
      await page.keyboard.press("/");
      await page.keyboard.type("wp-login");
      await reaches(page, () => [...document.querySelectorAll(".attacker")].every((row) => row.textContent.includes("wp-login")), "only those who ask for it");
      await page.getByLabel("Search").fill("203.0.113.77");
      await rowIs(page, "203.0.113.77", "shown");
      await reaches(page, () => [...document.querySelectorAll("#events .event:not([hidden])")].every((line) => line.textContent.includes("203.0.113.77")), "events about it");
      await page.keyboard.press("Enter");
      await page.getByRole("dialog", { name: "203.0.113.77" }).waitFor();
    }));

  test("a link opens what it was copied from", () =>
    withPage("attack", {}, async (page, server) => {
      await page.locator(".attacker").first().waitFor();
      await page.locator("#ranges").getByText("24 h", { exact: true }).click();
      await page.getByLabel("Rule").selectOption("probing");
      await page.locator(".attacker", { hasText: "192.0.2.14" }).getByRole("button", { name: "Explain 192.0.2.14" }).click();
      await page.getByText("Rules, as of now").waitFor();
      await isAt(page, "#client=192.0.2.14&range=24h&rule=probing");
      const link = page.url();
      await page.getByRole("button", { name: "Close" }).click();
      await isAt(page, "#range=24h&rule=probing");

      const second = await openLive(browser, link);
      await second.getByRole("dialog", { name: "192.0.2.14" }).waitFor();
      assert.equal(await second.locator("#ranges input:checked + label").textContent(), "24 h");
      await reaches(second, () => document.getElementById("bans-rule").value === "probing", "its rule");
      await close(second);
      assert.ok(server.agent.status().bans.active > 0);
    }));

  test("a link of an attacker's making is text", () =>
    withPage("calm", {}, async (page, { url }) => {
      const second = await openLive(browser, `${url}#client=<img src=x onerror=window.hacked=1>&range=nonsense&q=<b>&rule=<i>`);
      await second.getByRole("dialog").waitFor();
      assert.deepEqual(await second.evaluate(() => ["hacked" in window, document.images.length]), [false, 0]);
      await close(second);
    }));

  test("addresses can be selected and copied", () =>
    withPage("attack", {}, async (page) => {
      await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
      for (const list of [".attacker", ".ban", ".clients tbody tr"]) {
        const address = page.locator(`${list} .address`).first();
        const select = async () => {
          await address.dblclick();
          await address.click({ clickCount: 3 });
          const [selected, wanted] = [await page.evaluate(() => String(getSelection())), await address.textContent()];
          return selected.includes(wanted);
        };
        let isSelected = false;
        // Another one may have become the first in between.
        for (let tries = 0; tries < 10 && !isSelected; tries += 1) isSelected = await select();
        assert.ok(isSelected, list);
      }
      await page.locator(".opener").first().click();
      await page.getByRole("button", { name: "Copy the address" }).first().click();
      await page.getByText("Copied: ").waitFor();
      assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await page.locator(".ban .address").first().textContent());
    }));

  test("imported lists are one line, until they are asked for", () =>
    withPage("imported", {}, async (page) => {
      await page.getByText("3,000 clients of imported lists are banned as well.").waitFor();
      assert.equal(await page.locator(".ban").count(), 7);
      await page.getByRole("button", { name: "Show them" }).click();
      await reaches(page, () => document.getElementById("bans-range").textContent === "1–25 of 3,000", "the imported ones");
      await page.getByLabel("Rule").selectOption("");
      await page.getByLabel("Search").fill("2001:db8:0:bb");
      await rowIs(page, "2001:db8:0:bb::/64", "shown");
    }));
});

describe("where the page is served", () => {
  test("below a path of a proxy it works as at the root", async () => {
    const server = await serve(new FakeAgent("calm"), 0, { prefix: "/shield" });
    const page = await openLive(browser, server.url);
    server.agent.makeBan(CLIENT);
    await rowIs(page, CLIENT, "shown");
    await close(page);
    await server.stop();
  });

  test("a locked page says that it is locked, and nothing about traffic that it does not know", async () => {
    const server = await serve(new FakeAgent("attack"));
    server.options.locked = true;
    const page = await open(browser, server.url);
    await page.getByText("reading needs the operator's token").first().waitFor();
    assert.equal(await page.locator("main").isVisible(), false);
    assert.ok((await page.title()).startsWith("Locked"));
    await page.getByRole("button", { name: "Enter the token" }).click();
    await page.getByLabel("Token", { exact: true }).fill(TOKEN);
    await page.getByRole("dialog").getByRole("button", { name: "Unlock" }).click();
    await reaches(page, () => document.body.dataset.link === "live", "live");
    await page.locator(".attacker").first().waitFor();
    await close(page);
    await server.stop();
  });

  test("a dry run says nowhere that anybody is banned", () =>
    withPage("dry", {}, async (page) => {
      await page.locator(".attacker").first().waitFor();
      assert.ok((await page.title()).startsWith("Dry run"));
      await page.getByRole("heading", { name: "Clients that would be banned" }).waitFor();
      await page.getByRole("heading", { name: "Would be banned", exact: true }).waitFor();
      assert.equal(await page.getByRole("heading", { name: /^Banned/ }).count(), 0);
    }));
});

test("a request's path of <script> is text, wherever it is shown", () =>
  withPage("calm", {}, async (page, { agent }) => {
    const path = "/<script>window.hacked=1</script><img src=x onerror=window.hacked=1>";
    agent.makeBan(CLIENT, { path });
    await rowIs(page, CLIENT, "shown");
    await row(page, CLIENT).getByRole("button", { name: `Evidence against ${CLIENT}` }).click();
    await page.locator(".paths code", { hasText: path }).waitFor();
    await page.locator("#events", { hasText: path }).waitFor();
    const found = await page.evaluate(() => ({ hacked: "hacked" in window, scripts: document.scripts.length, images: document.images.length }));
    assert.deepEqual(found, { hacked: false, scripts: 1, images: 0 });
  }));

test("the lines of the log that led to a ban are text, and for whoever has the token", () =>
  withPage("attack", {}, async (page, { agent }) => {
    agent.makeBan(CLIENT, { secs: 600, rule: "probing" });
    await rowIs(page, CLIENT, "shown");
    const explain = () => page.goto(new URL(`#client=${CLIENT}`, page.url()).href);
    await explain();
    await page.getByText("Unlocked with the token, this shows its last lines").waitFor();
    assert.equal(await page.locator(".log-lines").count(), 0);
    await page.getByRole("button", { name: "Close" }).click();
    await page.getByRole("button", { name: "Unlock" }).click();
    await page.getByRole("textbox", { name: "Token" }).fill(TOKEN);
    await page.locator("dialog").getByRole("button", { name: "Unlock" }).click();
    await page.locator("dialog").waitFor({ state: "hidden" });
    await explain();
    const lines = page.locator(".log-lines");
    await lines.waitFor();
    assert.match((await lines.textContent()) ?? "", /"GET .*<script>window\.hacked=1<\/script> HTTP\/1\.1" 404/);
    assert.equal(await page.evaluate(() => window.hacked), undefined);
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
    await row(page, CLIENT).getByRole("button", { name: `Evidence against ${CLIENT}` }).click();
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
        assert.ok((await shown(page)).startsWith(`${title}: `), await shown(page));
        icons.add(await page.locator("link[rel=icon]").getAttribute("href"));
      });
    }
    assert.equal(icons.size, 4, "one colour for each degree of worry");
  });

  test("clients that get through are listed by network, and a network is banned from there", () =>
    withPage("overrun", {}, async (page, { agent }) => {
      await page.getByText("48 clients get through", { exact: true }).waitFor();
      await page.getByText("203.0.113.0/24 (46), 2001:db8:77::/48 (2)").waitFor();
      await page.getByRole("button", { name: "Ban 203.0.113.0/24…" }).click();
      await page.getByLabel("Token").fill(TOKEN);
      await page.getByRole("button", { name: "Ban", exact: true }).click();
      await rowIs(page, "203.0.113.0/24", "shown");
      assert.equal(agent.isBanned("203.0.113.0/24"), true);
    }));
});

describe("attacking networks", () => {
  test("have the owner and the country that the agent's databases name, and nothing where they do not know them", () =>
    withPage("calm", {}, async (page, { agent }) => {
      agent.makeBan("198.51.100.42", { secs: 600, rule: "probing" });
      agent.makeBan("203.0.113.9", { secs: 600, rule: "probing" });
      const network = (prefix) => page.locator("#networks li", { hasText: prefix });
      await network("198.51.100.0/24").getByText("AS64500 Example Hosting, DE", { exact: true }).waitFor();
      await network("203.0.113.0/24").waitFor();
      assert.equal(await network("203.0.113.0/24").locator(".owner").textContent(), "");
      await page.locator("#search").fill("example hosting");
      await reaches(page, () => document.querySelectorAll("#networks li").length === 1, "only the network that was searched for");
    }));
});

describe("automatic bans", () => {
  test("are paused and resumed here", () =>
    withPage("calm", {}, async (page, { agent }) => {
      await page.getByRole("button", { name: "Pause…" }).click();
      await page.locator("dialog select").selectOption({ label: "2 h" });
      await page.getByLabel("Token").fill(TOKEN);
      await page.getByRole("button", { name: "Pause", exact: true }).click();
      const paused = page.locator(".notice", { hasText: "Automatic bans are paused" });
      await paused.getByText(/Until .+ rules ban and slow nobody/).waitFor();
      assert.ok(agent.pausedUntil > Date.now() + 7_100_000, String(agent.pausedUntil));
      await paused.getByRole("button", { name: "Resume…" }).click();
      await page.getByRole("button", { name: "Resume", exact: true }).click();
      await paused.waitFor({ state: "detached" });
      assert.equal(agent.pausedUntil, null);
    }));

  test("that stopped themselves are resumed from where it says so", () =>
    withPage("overrun", {}, async (page, { agent }) => {
      const stopped = page.locator(".notice", { hasText: "Automatic bans are stopped" });
      await stopped.getByRole("button", { name: "Resume…" }).click();
      await page.getByText("48 clients that get through now are banned at once, if they still attack.").waitFor();
      await page.getByLabel("Token").fill(TOKEN);
      await page.getByRole("button", { name: "Resume", exact: true }).click();
      await page.getByText("Rules ban again; 1 client dealt with.").waitFor();
      await stopped.waitFor({ state: "detached" });
      assert.equal(agent.stopped, false);
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
      const named = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label"));
      for (let presses = 0; presses < 6 && (await named()) !== `Evidence against ${CLIENT}`; presses += 1) await page.keyboard.press("Tab");
      assert.equal(await named(), `Evidence against ${CLIENT}`, "the first row is a few presses away");
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

describe("sites", () => {
  const SHOP = "shop.example.org";
  const BLOG = "blog.example.org";
  const rowsAre = (page, clients, what) =>
    reaches(
      page,
      (clients) => ["attackers-rows", "bans-rows"].every((list) => [...document.querySelectorAll(`#${list} .address`)].every((cell) => clients.includes(cell.textContent)) && document.querySelector(`#${list} .address`) !== null),
      what,
      { argument: clients },
    );

  test("a site chosen in the table filters attackers, bans, paths and events, and a link keeps it", () =>
    withPage("sites", {}, async (page, { agent, url }) => {
      agent.makeBan("198.51.100.43", { rule: "probing", path: "/only-of-the-blog", site: BLOG });
      agent.makeBan("198.51.100.44", { rule: "probing", path: "/only-of-the-shop", site: SHOP });
      await rowIs(page, "198.51.100.43", "shown");
      await page.getByRole("button", { name: SHOP, exact: true }).click();
      const ofShop = agent.keys().filter((client) => agent.siteOf(client) === SHOP);
      assert.ok(ofShop.length > 1 && !ofShop.includes("198.51.100.43"));
      await rowsAre(page, ofShop, "only the shop's");
      await reaches(page, () => document.getElementById("paths").textContent.includes("/only-of-the-shop"), "the shop's paths");
      assert.ok(!(await page.locator("#paths").textContent()).includes("/only-of-the-blog"));
      assert.equal(await page.getByText("Banned 198.51.100.44").isVisible(), true);
      assert.equal(await page.getByText("Banned 198.51.100.43").isVisible(), false);
      await isAt(page, "#site=shop.example.org");
      // The end of a ban names no site, but is known by the ban.
      agent.unban(["198.51.100.44", "198.51.100.43"]);
      await page.getByText("Lifted the ban of 198.51.100.44").waitFor();
      assert.equal(await page.getByText("Lifted the ban of 198.51.100.43").isVisible(), false);

      const linked = await openLive(browser, `${url}#site=${BLOG}`);
      await rowsAre(linked, agent.keys().filter((client) => agent.siteOf(client) === BLOG), "only the blog's");
      assert.equal(await linked.locator("#site").inputValue(), BLOG);
      await linked.locator("#site").selectOption("");
      await reaches(linked, (most) => document.querySelectorAll("#bans-rows .ban").length === most, "all bans", { argument: agent.keys().length });
      await isAt(linked, "");
      await close(linked);
    }));

  test("without names in the log nothing speaks of sites; a link to one that is not there shows nobody", () =>
    withPage("attack", {}, async (page, { url }) => {
      await reaches(page, () => document.querySelectorAll("#bans-rows .ban").length > 0, "filled");
      assert.deepEqual([await page.locator("#sites-panel").isVisible(), await page.locator("#site").isVisible()], [false, false]);
      const linked = await openLive(browser, `${url}#site=${encodeURIComponent("<b>nobody</b>")}`);
      await linked.getByText("No banned client matches.").waitFor();
      await linked.getByText("Nobody who asked for <b>nobody</b>.").waitFor();
      await linked.getByRole("button", { name: "Show all sites" }).click();
      await reaches(linked, () => document.querySelectorAll("#bans-rows .ban").length > 0, "all bans");
      await close(linked);
    }));
});

describe("the budget", () => {
  test("the bundle is at most 150 kB", async () => {
    const dist = fileURLToPath(new URL("../../dashboard/web/dist/", import.meta.url));
    assert.deepEqual((await readdir(dist)).toSorted(), ["SOURCES", "app.js", "favicon.svg", "index.html"]);
    const [, style] = /<style [^>]*>([^<]*)<\/style>/.exec(await readFile(`${dist}index.html`, "utf8"));
    const bytes = (await stat(`${dist}app.js`)).size + style.length;
    assert.ok(bytes <= 150_000, `${bytes} bytes of script and style`);
  });

  // A time would tell more of the machine than of the page: `cargo xtask bench page` has them.
  test("the first paint waits for nothing but the page itself", async () => {
    const server = await serve(new FakeAgent("attack"));
    const held = [];
    const page = await browser.newPage();
    try {
      await page.route((url) => url.pathname !== "/", (route) => held.push(route));
      await page.goto(server.url, { waitUntil: "commit" });
      await reaches(page, () => performance.getEntriesByName("first-contentful-paint").length === 1, "painted");
      assert.ok(held.some((route) => route.request().url().endsWith("/app.js")), "the script was held back");
      const size = await page.evaluate(() => getComputedStyle(document.querySelector(".emblem")).width);
      assert.equal(size, "40px", "and has its style");
    } finally {
      await page.close();
      await server.stop();
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
    for (const label of ["Log", "Linear"]) await page.locator("#scales").getByText(label, { exact: true }).click();
    await page.locator(".opener").first().click();
    await page.getByRole("button", { name: "Explain this client" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  }));
