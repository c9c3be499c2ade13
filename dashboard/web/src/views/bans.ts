// The table of banned clients. The agent searches, sorts and pages, so that a million bans cost the browser one page.

import { api, ApiError } from "../api/client";
import type { Ban, BanPage, BanSort, RuleName } from "../api/types";
import { everySecond } from "../clock";
import { byId, h, Keyed, setText } from "../dom";
import { count, plural, span } from "../format";
import { ruleLabels } from "../labels";
import { ban as banDialog, pause } from "./actions";
import { BanRow } from "./ban-row";

const PER_PAGE = 25;

/** Interval at which counters and ends are fetched again: what is shown is never older than 3 s. */
const REFRESH_MS = 2_500;

/** Bans within this time lead to one refresh. */
const BURST_MS = 250;

/** Rules whose bans are many and hide who attacks, as their clients are told of. */
const LISTS: [RuleName, string][] = [
  ["imported", "of imported lists"],
  ["blocklist", "on blocklists"],
  ["crowdsec", "that CrowdSec decided on"],
];

/** The numbers of their bans change rarely. */
const COUNT_LISTS_MS = 15_000;

/** Slowed clients that are named. */
const MAX_SLOWED = 10;

export class Bans {
  private query = { q: "", rule: "" as RuleName | "", site: "", sort: "since" as BanSort };
  /** Cursors of the pages up to the one shown, which is the last. */
  private cursors: (string | null)[] = [null];
  private next: string | null = null;
  private requests = 0;
  private isDry = false;
  private listCounts = LISTS.map(() => 0);
  private listsShown = "[]";
  private listsAt = Number.NEGATIVE_INFINITY;
  private refreshTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly rows: Keyed<Ban, BanRow>;
  private readonly rule = byId<HTMLSelectElement>("bans-rule");
  private readonly sort = byId<HTMLSelectElement>("bans-sort");
  private readonly previousButton = byId<HTMLButtonElement>("bans-previous");
  private readonly nextButton = byId<HTMLButtonElement>("bans-next");

  /** `asked` is told of every change of what is asked for. */
  constructor(
    explain: (client: string) => void,
    private readonly asked: () => void,
  ) {
    this.rows = new Keyed(byId("bans-rows"), (ban) => ban.client, (ban) => new BanRow(ban, explain));
    byId("ban-button").addEventListener("click", () => banDialog(null));
    byId("pause-button").addEventListener("click", pause);
    this.rule.addEventListener("change", () => this.ask());
    this.sort.addEventListener("change", () => this.ask());
    this.previousButton.addEventListener("click", () => this.turn(this.cursors.slice(0, -1)));
    this.nextButton.addEventListener("click", () => this.turn([...this.cursors, this.next]));
    everySecond(() => this.tick());
    setInterval(() => this.refreshIfSeen(), REFRESH_MS);
  }

  /** Offers the rules as filters and renders the rows again with the names. */
  labelsLoaded(): void {
    const wanted = this.query.rule;
    this.rule.append(...ruleLabels().map(([value, label]) => h("option", { value }, label)));
    if (wanted !== "") this.rule.value = wanted;
    this.changed();
  }

  /** Refreshes soon, once for a burst of changes. */
  changed(): void {
    clearTimeout(this.refreshTimer);
    this.refreshTimer = setTimeout(() => void this.refresh(), BURST_MS);
  }

  /** Fetches the page that is shown. Only the answer to the latest request counts: an older one may arrive after it. */
  async refresh(): Promise<void> {
    const ticket = ++this.requests;
    try {
      const page = await api.bans({ ...this.query, limit: PER_PAGE, cursor: this.cursors.at(-1) ?? null, imported: this.isFiltered });
      if (ticket === this.requests) this.show(page);
      await this.countLists();
    } catch (error) {
      if (ticket === this.requests) this.failed(error);
    }
  }

  /** The chosen rule; empty for all. */
  get chosenRule(): string {
    return this.rule.value;
  }

  /** Shows the bans for one rule. One that is not known shows all. */
  choose(rule: string): void {
    this.rule.value = rule;
    if (this.rule.value !== rule) this.rule.value = "";
    this.ask();
  }

  /** Searches for clients that begin so. */
  find(q: string): void {
    this.query.q = q;
    this.ask();
  }

  /** Shows the bans of clients that asked for this site; empty for all. */
  setSite(site: string): void {
    if (site === this.query.site) return;
    this.query.site = site;
    this.ask();
  }

  setDry(isDry: boolean): void {
    if (isDry === this.isDry) return;
    this.isDry = isDry;
    setText(byId("bans-title"), isDry ? "Clients that would be banned" : "Banned clients");
  }

  private get isFiltered(): boolean {
    return this.query.q !== "" || this.query.rule !== "" || this.query.site !== "";
  }

  private ask(): void {
    this.query = { ...this.query, rule: this.rule.value as RuleName | "", sort: this.sort.value as BanSort };
    this.asked();
    this.turn([null]);
  }

  private turn(cursors: (string | null)[]): void {
    this.cursors = cursors;
    void this.refresh();
  }

  private refreshIfSeen(): void {
    if (document.visibilityState === "visible" && document.body.dataset["link"] === "live") void this.refresh();
  }

  private tick(): void {
    for (const row of this.rows.all) row.tick();
  }

  private show(page: BanPage): void {
    if (page.bans.length === 0 && this.cursors.length > 1) {
      this.turn(this.cursors.slice(0, -1));
      return;
    }
    this.rows.update(page.bans);
    this.next = page.next;
    this.showPager(page);
    this.showEmpty(page.total);
    this.showSlowed(page);
  }

  /** Lists are a line each, because they hide who attacks; a search or a filter looks into them too. */
  private async countLists(): Promise<void> {
    if (performance.now() - this.listsAt > COUNT_LISTS_MS) {
      this.listsAt = performance.now();
      const pages = LISTS.map(([rule]) => api.bans({ q: "", rule, site: "", sort: "since", limit: 1, cursor: null, imported: true }));
      this.listCounts = (await Promise.all(pages)).map((page) => page.total);
    }
    const lines = this.isFiltered ? [] : LISTS.map(([rule, words], at) => ({ rule, words, clients: this.listCounts[at] ?? 0 })).filter(({ clients }) => clients > 0);
    // Only what is new, so that a button keeps the focus.
    const shown = JSON.stringify(lines);
    if (shown === this.listsShown) return;
    this.listsShown = shown;
    byId("bans-lists").replaceChildren(
      ...lines.map(({ rule, words, clients }) => {
        const text = `${plural(clients, "client", "clients")} ${words} ${clients === 1 ? "is" : "are"} banned as well. `;
        return h("p", { class: "folded" }, text, h("button", { type: "button", class: "quiet", click: () => this.choose(rule) }, "Show them"));
      }),
    );
  }

  /** The slowed clients, who are not banned: the first page names them. */
  private showSlowed(page: BanPage): void {
    if (this.cursors.length > 1) return;
    const note = byId("bans-slowed");
    const slowed = page.slowed ?? [];
    note.hidden = slowed.length === 0;
    const named = slowed.slice(0, MAX_SLOWED).map((it) => `${it.client} (${it.words}; ${span(it.remaining_secs)} left)`);
    const more = slowed.length > MAX_SLOWED ? [`${count(slowed.length - MAX_SLOWED)} more`] : [];
    setText(note, `Slowed, not banned: ${[...named, ...more].join(", ")}`);
  }

  private showPager(page: BanPage): void {
    const first = (this.cursors.length - 1) * PER_PAGE + 1;
    const last = first + page.bans.length - 1;
    setText(byId("bans-range"), page.total === 0 ? "" : `${count(first)}–${count(last)} of ${count(page.total)}`);
    setText(byId("bans-note"), this.isFiltered ? `${count(page.total)} match` : plural(page.total, "client", "clients"));
    this.previousButton.disabled = this.cursors.length === 1;
    this.nextButton.disabled = page.next === null;
    byId("bans-pager").hidden = this.previousButton.disabled && this.nextButton.disabled;
  }

  private showEmpty(total: number): void {
    byId("bans-table").hidden = total === 0;
    const empty = byId("bans-empty");
    empty.hidden = total > 0;
    setText(empty, this.isFiltered ? "No banned client matches." : this.isDry ? "Nobody would be banned. A client appears here as soon as a rule fires." : "Nobody is banned. A client appears here as soon as it is dropped.");
  }

  /** A cursor is stale after a restart of the agent: back to the first page. The connection's state is shown elsewhere. */
  private failed(error: unknown): void {
    if (error instanceof ApiError && error.status === 400 && this.cursors.length > 1) this.turn([null]);
  }
}
