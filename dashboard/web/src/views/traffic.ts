// The traffic panel: the span shown, its data, and the values under the pointer.

import type uPlot from "uplot";
import { api } from "../api/client";
import type { Event as AgentEvent, HistoryRange, Status } from "../api/types";
import { byId, h, setAttribute, setText } from "../dom";
import { bytes, rate, time } from "../format";
import { dropData, dropPlot, forgetPalette, rateData, ratePlot } from "../plots";
import { Series, type Value } from "../series";

interface Span {
  label: string;
  words: string;
  history: HistoryRange;
  secs: number;
  stepSecs: number;
  reloadMs: number;
}

/** The agent's history is fetched again from time to time; in between, live values are appended. */
const SPANS: Span[] = [
  { label: "Live", words: "the last 5 minutes", history: "30m", secs: 300, stepSecs: 1, reloadMs: 300_000 },
  { label: "30 min", words: "the last 30 minutes", history: "30m", secs: 1_800, stepSecs: 2, reloadMs: 60_000 },
  { label: "24 h", words: "the last 24 hours", history: "24h", secs: 86_400, stepSecs: 60, reloadMs: 120_000 },
];

type Legend = (name: string, value: string) => void;

export class Traffic {
  private readonly all = SPANS.map((span) => new Series(span.secs, span.stepSecs));
  private shown = 0;
  private hover: number | null = null;
  private readonly loadedMs = SPANS.map(() => Number.NEGATIVE_INFINITY);
  private readonly rateBox = byId("rate-plot");
  private readonly dropBox = byId("drop-plot");
  private readonly plots: { rate: uPlot; drops: uPlot };
  private readonly rateLegend = legend(byId("rate-legend"), [
    ["rate", "Rate"],
    ["mean", "Baseline"],
    ["errors", "Errors"],
    ["at", "At"],
  ], [
    ["bans", "Bans"],
    ["anomaly", "Global anomaly"],
  ]);
  private readonly dropLegend = legend(byId("drop-legend"), [
    ["packets", "Packets"],
    ["bytes", "Bytes"],
  ]);

  constructor() {
    const hovered = (at: number | null): void => {
      this.hover = at;
      this.showLegends();
    };
    this.plots = {
      rate: ratePlot(this.rateBox, () => this.series, hovered),
      drops: dropPlot(this.dropBox, () => this.series, hovered),
    };
    this.makeRanges();
    const observer = new ResizeObserver(() => this.resize());
    observer.observe(this.rateBox);
    observer.observe(this.dropBox);
  }

  /** Appends the present, once a second. */
  push(status: Status): void {
    for (const series of this.all) series.push(status);
    this.reloadWhenOld();
    this.draw();
  }

  mark(event: AgentEvent): void {
    for (const series of this.all) series.mark(event);
  }

  /** Fetches the agent's history, which fills gaps in what is shown. */
  reload(): void {
    this.loadedMs.fill(Number.NEGATIVE_INFINITY);
    this.reloadWhenOld();
  }

  recolour(): void {
    forgetPalette();
    this.plots.rate.redraw();
    this.plots.drops.redraw();
  }

  private get series(): Series {
    return this.all[this.shown] as Series;
  }

  private get span(): Span {
    return SPANS[this.shown] as Span;
  }

  private reloadWhenOld(): void {
    const at = this.shown;
    if (performance.now() - (this.loadedMs[at] ?? 0) < this.span.reloadMs) return;
    this.loadedMs[at] = performance.now();
    api
      .history(this.span.history)
      .then((history) => {
        this.all[at]?.load(history);
        this.draw();
      })
      // The connection's state is shown elsewhere, and reconnecting reloads.
      .catch(() => undefined);
  }

  private draw(): void {
    this.plots.rate.setData(rateData(this.series));
    this.plots.drops.setData(dropData(this.series));
    this.showLegends();
    setAttribute(this.rateBox, "data-empty", isEmpty(this.series.columns.rate) ? `No requests in ${this.span.words}` : null);
    setAttribute(this.dropBox, "data-empty", isEmpty(this.series.columns.packets) ? `Nothing dropped in ${this.span.words}` : null);
    setAttribute(this.rateBox, "aria-label", this.describe());
    setAttribute(this.dropBox, "aria-label", this.describeDrops());
  }

  private showLegends(): void {
    const { columns } = this.series;
    const at = this.hover ?? columns.at.length - 1;
    const value = (column: (number | null)[]): number | null => column[at] ?? null;
    const words = (number: number | null, format: (value: number) => string): string => (number === null ? "–" : format(number));
    const mean = value(columns.mean);
    this.rateLegend("rate", words(value(columns.rate), rate));
    this.rateLegend("mean", words(mean, (mean) => `${rate(mean)} ± ${rate(value(columns.stddev) ?? 0)}`));
    this.rateLegend("errors", words(value(columns.errors), rate));
    this.rateLegend("at", this.hover === null ? "now" : words(columns.at[at] ?? null, (secs) => time(secs * 1000)));
    this.dropLegend("packets", words(value(columns.packets), rate));
    this.dropLegend("bytes", words(value(columns.bytes), bytes));
  }

  private describe(): string {
    const { columns } = this.series;
    const rates = columns.rate.filter((value) => value !== null);
    if (rates.length === 0) return `Requests per second over ${this.span.words}: nothing recorded yet.`;
    const marks = this.series.bans(1).reduce((sum, mark) => sum + mark.count, 0);
    return `Requests per second over ${this.span.words}: now ${rate(rates.at(-1) ?? 0)}, highest ${rate(Math.max(...rates))}; ${marks} bans and ${this.series.anomalies().length} global anomalies marked.`;
  }

  private describeDrops(): string {
    const packets = this.series.columns.packets.filter((value) => value !== null);
    return `Packets dropped per second over ${this.span.words}: now ${rate(packets.at(-1) ?? 0)}, highest ${rate(Math.max(0, ...packets))}.`;
  }

  private makeRanges(): void {
    this.rateBox.setAttribute("role", "img");
    this.dropBox.setAttribute("role", "img");
    const radios = SPANS.map((span, at) => {
      const input = h("input", { type: "radio", name: "range", id: `range-${at}`, checked: at === this.shown, change: () => this.choose(at) });
      return [input, h("label", { for: `range-${at}` }, span.label)];
    });
    byId("ranges").append(...radios.flat());
    this.draw();
  }

  private choose(at: number): void {
    this.shown = at;
    this.hover = null;
    this.reloadWhenOld();
    this.draw();
  }

  private resize(): void {
    this.plots.rate.setSize({ width: this.rateBox.clientWidth, height: this.rateBox.clientHeight });
    this.plots.drops.setSize({ width: this.dropBox.clientWidth, height: this.dropBox.clientHeight });
  }
}

function isEmpty(column: Value[]): boolean {
  return column.every((value) => value === null || value === 0);
}

/** A legend: entries with a value, and signs that only explain a mark. */
function legend(parent: Element, entries: [string, string][], signs: [string, string][] = []): Legend {
  const values = new Map<string, Element>();
  for (const [key, name] of signs) parent.append(h("div", { "data-series": key }, h("dt", {}, name), h("dd", { class: "visually-hidden" }, "marked in the plot")));
  for (const [key, name] of entries) {
    const value = h("dd", {}, "–");
    values.set(key, value);
    parent.append(h("div", { "data-series": key }, h("dt", {}, name), value));
  }
  return (key, text) => {
    const value = values.get(key);
    if (value !== undefined) setText(value, text);
  };
}
