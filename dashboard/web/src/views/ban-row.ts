// The row of a banned client, with its countdown and, when opened, the evidence.

import type { Ban } from "../api/types";
import { agentNowMs } from "../clock";
import { h, icon, setAttribute, setText } from "../dom";
import { bytes, countdown, plural, sentence, shortCount, time } from "../format";
import { ruleLabel } from "../labels";
import { allow, lift } from "./actions";
import { leakWords } from "./attackers";
import { banDetails } from "./evidence";

/** A ban younger than this is highlighted when it appears. */
const FRESH_MS = 5_000;

/** `remaining_secs` is in whole seconds: an end that moved by less than this has not moved. */
const JITTER_MS = 1_500;

let rowsMade = 0;

export class BanRow {
  readonly elements: Element[];
  private shownDetails = "";
  private endMs: number | null = null;
  private readonly id = `ban-${++rowsMade}`;
  private readonly row = h("tr", { role: "row", class: "ban" });
  private readonly detailsCell = h("td", { role: "cell", colspan: 6 });
  private readonly details = h("tr", { role: "row", class: "ban-details", id: this.id, hidden: true }, this.detailsCell);
  private readonly opener: HTMLElement;
  private readonly since = h("span", { class: "sub" });
  private readonly rule = h("span", { class: "badge" });
  private readonly words = h("span", { class: "words" });
  private readonly leak = h("p", { class: "leak", hidden: true });
  private readonly offence = h("td", { role: "cell", class: "number", "data-label": "Offence" });
  private readonly packets = h("span", {});
  private readonly bytes = h("span", { class: "sub" });
  private readonly left = h("span", { class: "left" });
  private readonly bar = h("span", { class: "gauge-fill" });

  constructor(
    private ban: Ban,
    private readonly explain: (client: string) => void,
  ) {
    setAttribute(this.row, "data-fresh", agentNowMs() - ban.since_ms < FRESH_MS ? "" : null);
    this.opener = h("button", { type: "button", class: "opener", "aria-expanded": "false", "aria-controls": this.id, "aria-label": `Evidence against ${ban.client}`, click: () => this.toggle() }, icon("chevron"));
    const button = (label: string, kind: string, run: (ban: Ban) => void): HTMLElement =>
      h("button", { type: "button", class: kind, "aria-label": `${label} ${ban.client}`, click: () => run(this.ban) }, label);
    this.row.append(
      // Beside the button and not in it: what is in a button cannot be selected.
      h("td", { role: "cell", class: "client-cell" }, h("span", { class: "opener-line" }, this.opener, h("span", { class: "address" }, ban.client)), this.since),
      h("td", { role: "cell", class: "why-cell" }, this.rule, this.words, this.leak),
      this.offence,
      h("td", { role: "cell", class: "number", "data-label": "Dropped" }, this.packets, this.bytes),
      h("td", { role: "cell", class: "number left-cell", "data-label": "Time left" }, this.left, h("span", { class: "gauge-bar", "aria-hidden": "true" }, this.bar)),
      h("td", { role: "cell", class: "actions" }, button("Lift", "quiet", lift), button("Never ban", "quiet", (ban) => allow(ban.client))),
    );
    this.elements = [this.row, this.details];
  }

  update(ban: Ban): void {
    const isNewBan = ban.serial !== this.ban.serial;
    this.ban = ban;
    this.setEnd(ban, isNewBan);
    setText(this.since, `since ${time(ban.since_ms)}`);
    setText(this.rule, ruleLabel(ban.rule));
    setAttribute(this.rule, "data-rule", ban.rule);
    setText(this.words, sentence(ban.words));
    const leaking = ban.leaking ?? null;
    this.leak.hidden = leaking === null;
    setAttribute(this.row, "data-leak", leaking === null ? null : "");
    setText(this.leak, leaking === null ? "" : leakWords(leaking));
    setText(this.offence, ban.offence === 0 ? "–" : String(ban.offence));
    setText(this.packets, ban.dropped === null ? "–" : shortCount(ban.dropped.packets));
    setText(this.bytes, ban.dropped === null ? "" : bytes(ban.dropped.bytes));
    setAttribute(this.packets, "title", ban.dropped === null ? "Not counted yet" : plural(ban.dropped.packets, "packet", "packets"));
    if (!this.details.hidden) this.showDetails();
    this.tick();
  }

  /** Called every second. */
  tick(): void {
    if (this.endMs === null) {
      setAttribute(this.row, "data-term", "permanent");
      setText(this.left, "permanent");
      return;
    }
    const leftMs = this.endMs - agentNowMs();
    setAttribute(this.row, "data-term", leftMs > 0 ? "running" : "over");
    setText(this.left, leftMs > 0 ? countdown(leftMs) : "ending");
    const share = leftMs / Math.max(1, this.endMs - this.ban.since_ms);
    this.bar.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
  }

  /** `remaining_secs` is by the agent's boot clock, which decides; converted once, so that the countdown does not jitter. */
  private setEnd(ban: Ban, isNewBan: boolean): void {
    if (ban.remaining_secs === null) {
      this.endMs = null;
      return;
    }
    const end = agentNowMs() + ban.remaining_secs * 1000;
    const moved = this.endMs === null || Math.abs(end - this.endMs) > JITTER_MS;
    if (isNewBan || moved) this.endMs = end;
  }

  private toggle(): void {
    const opened = this.details.hidden;
    this.details.hidden = !opened;
    setAttribute(this.opener, "aria-expanded", String(opened));
    if (opened) this.showDetails();
  }

  /** Only if something in them has changed, so that selected text stays selected. */
  private showDetails(): void {
    const shown = JSON.stringify({ ...this.ban, remaining_secs: null, dropped: null });
    if (shown === this.shownDetails) return;
    this.shownDetails = shown;
    this.detailsCell.replaceChildren(banDetails(this.ban, () => this.explain(this.ban.client)));
  }
}
