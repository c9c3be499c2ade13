// The sites, where the log names them: what each is asked for, and who attacks it. A chosen one filters the lists.

import { api } from "../api/client";
import type { SiteActivity, SiteList, SiteRequests } from "../api/types";
import { byId, h, Keyed, setAttribute, setText } from "../dom";
import { count, plural, rate, shortCount } from "../format";

/** Interval of looking. */
const LOOK_EVERY_MS = 2_500;
/** Rows shown; the list of names has the rest. */
const SHOWN = 8;
/** What the last minute's requests are counted over, at least. */
const MINUTE_SECS = 60;

export class Sites {
  private site = "";
  private lastLook = 0;
  private list: SiteList | null = null;
  private readonly names = byId<HTMLSelectElement>("site");
  private readonly rows: Keyed<SiteActivity, SiteRow>;

  /** `chosen` is told of another choice; empty for all sites. */
  constructor(private readonly told: (site: string) => void) {
    this.rows = new Keyed<SiteActivity, SiteRow>(
      byId("sites-rows"),
      (activity) => activity.site,
      (activity) => new SiteRow(activity.site, () => this.choose(activity.site === this.site ? "" : activity.site)),
    );
    this.names.addEventListener("change", () => this.choose(this.names.value));
    byId("sites-all").addEventListener("click", () => this.choose(""));
    setInterval(() => {
      if (document.visibilityState === "visible" && document.body.dataset["link"] === "live") void this.look();
    }, LOOK_EVERY_MS);
  }

  /** The chosen site; empty for all. */
  get chosen(): string {
    return this.site;
  }

  choose(site: string): void {
    if (site === this.site) return;
    this.site = site;
    this.show();
    this.told(site);
  }

  async look(): Promise<void> {
    const ticket = ++this.lastLook;
    const list = await api.sites().catch(() => null);
    if (list === null || ticket !== this.lastLook) return;
    this.list = list;
    this.show();
  }

  private show(): void {
    const sites = this.list?.sites ?? [];
    // With one site the whole page is about it.
    const isUseful = sites.length > 1 || this.site !== "";
    byId("sites-panel").hidden = !isUseful;
    byId("site-choice").hidden = !isUseful;
    this.showNames(sites.map(({ site }) => site));
    const first = sites.slice(0, SHOWN);
    const chosen = sites.filter(({ site }) => site === this.site && !first.some((shown) => shown.site === site));
    this.rows.update([...first, ...chosen]);
    for (const row of this.rows.all) row.setChosen(this.site);
    const rest = [plural(Math.max(0, sites.length - SHOWN), "more site", "more sites"), ...this.others()].filter((words) => !words.startsWith("0 "));
    setText(byId("sites-more"), rest.length === 0 ? "" : `Not shown: ${rest.join("; ")}.`);
    setText(byId("sites-note"), "since the agent started");
    const only = byId("sites-only");
    only.hidden = this.site === "";
    setText(byId("sites-only-text"), this.site === "" ? "" : `Attackers, attacked paths, bans and events are of clients that asked for ${this.site}. Plots, figures and busiest clients are of all sites.`);
  }

  private others(): string[] {
    const words = (requests: SiteRequests | undefined, what: string): string => `${plural(requests?.requests ?? 0, "request", "requests")} ${what}`;
    return [words(this.list?.other, "of other names"), words(this.list?.unnamed, "without a name")];
  }

  /** The names to choose from; the chosen one is among them, whatever a link says. */
  private showNames(names: string[]): void {
    const wanted = [...new Set([...names, ...(this.site === "" ? [] : [this.site])])].toSorted((a, b) => a.localeCompare(b));
    const shown = JSON.stringify(wanted);
    if (this.names.dataset["shown"] !== shown) {
      this.names.dataset["shown"] = shown;
      this.names.replaceChildren(h("option", { value: "" }, "Every site"), ...wanted.map((name) => h("option", { value: name }, name)));
    }
    if (this.names.value !== this.site) this.names.value = this.site;
  }
}

class SiteRow {
  readonly elements: Element[];
  private readonly row: HTMLElement;
  private readonly name: HTMLElement;
  private readonly cells = ["Req/s", "Requests", "4xx", "5xx", "Banned", "Attacking"].map((label) => h("td", { role: "cell", class: "number", "data-label": label }));

  constructor(site: string, choose: () => void) {
    this.name = h("button", { type: "button", class: "plain site-name", "aria-pressed": "false", title: `Show only ${site}`, click: choose }, site);
    this.row = h("tr", { role: "row", class: "site" }, h("td", { role: "cell", class: "site-cell" }, this.name), ...this.cells);
    this.elements = [this.row];
  }

  update(site: SiteActivity): void {
    const texts = [rate(site.requests_last_minute / MINUTE_SECS), shortCount(site.requests), shortCount(site.client_errors), shortCount(site.server_errors), count(site.bans), count(site.attackers)];
    this.cells.forEach((cell, at) => setText(cell, texts[at] ?? ""));
    setAttribute(this.row, "data-attacked", site.attackers > 0 ? "" : null);
  }

  setChosen(site: string): void {
    setAttribute(this.name, "aria-pressed", String(this.name.textContent === site));
  }
}
