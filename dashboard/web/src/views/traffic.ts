// The traffic panel: the span shown, its data, and the values under the pointer.

import type uPlot from "uplot";
import { api } from "../api/client";
import type { Event as AgentEvent, HistoryRange, Status } from "../api/types";
import { byId, h, setAttribute, setText } from "../dom";
import { bytes, rate, time } from "../format";
import { dropData, dropPlot, forgetPalette, rateData, ratePlot, type Scale, type Stretch } from "../plots";
import { Series, type Value } from "../series";

interface Span {
  key: string;
  label: string;
  words: string;
  history: HistoryRange;
  secs: number;
  stepSecs: number;
  reloadMs: number;
}

/** The agent's history is fetched again from time to time; in between, live values are appended. */
const SPANS: Span[] = [
  { key: "live", label: "Live", words: "the last 5 minutes", history: "30m", secs: 300, stepSecs: 1, reloadMs: 300_000 },
  { key: "30m", label: "30 min", words: "the last 30 minutes", history: "30m", secs: 1_800, stepSecs: 2, reloadMs: 60_000 },
  { key: "24h", label: "24 h", words: "the last 24 hours", history: "24h", secs: 86_400, stepSecs: 60, reloadMs: 120_000 },
];

type Legend = (name: string, value: string) => void;

export class Traffic {
  private readonly all = SPANS.map((span) => new Series(span.secs, span.stepSecs));
  private shown = 0;
  private hover: number | null = null;
  private readonly loadedMs = SPANS.map(() => Number.NEGATIVE_INFINITY);
  private readonly rateBox = byId("rate-plot");
  private readonly dropBox = byId("drop-plot");
  private scale: Scale = "linear";
  private plots: { rate: uPlot; drops: uPlot };
  private readonly legend = legend(byId("legend"), [
    ["visitors", "Visitors"],
    ["attackers", "Attackers"],
    ["rate", "Mean of 60 s"],
    ["mean", "Usual"],
    ["errors", "Errors"],
    ["packets", "Dropped"],
    ["at", "At"],
  ]);

  /** `chosen` is told of another span, `marked` of a click on a mark of bans. */
  constructor(
    private readonly chosen: () => void,
    private readonly marked: (stretch: Stretch) => void,
  ) {
    this.plots = this.makePlots();
    this.makeSwitches();
    const observer = new ResizeObserver(() => this.resize());
    observer.observe(this.rateBox);
    observer.observe(this.dropBox);
  }

  private makePlots(): { rate: uPlot; drops: uPlot } {
    const hovered = (at: number | null): void => {
      this.hover = at;
      this.showLegend();
    };
    return {
      rate: ratePlot(this.rateBox, () => this.series, this.scale, hovered, this.marked),
      drops: dropPlot(this.dropBox, () => this.series, this.scale, hovered),
    };
  }

  /** The key of the span that is shown. */
  get range(): string {
    return this.span.key;
  }

  /** Shows the span with this key; another key changes nothing. */
  setRange(key: string | null): void {
    const at = SPANS.findIndex((span) => span.key === key);
    if (at < 0 || at === this.shown) return;
    byId<HTMLInputElement>(`range-${at}`).checked = true;
    this.choose(at);
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
    this.showLegend();
    const isKnown = this.series.columns.at.length > 0;
    setAttribute(this.rateBox, "data-empty", isKnown && isEmpty(this.series.columns.rate) ? `No requests in ${this.span.words}` : null);
    setAttribute(this.dropBox, "data-empty", isKnown && isEmpty(this.series.columns.packets) ? `Nothing dropped in ${this.span.words}` : null);
    setAttribute(this.rateBox, "aria-label", this.describe());
    setAttribute(this.dropBox, "aria-label", this.describeDrops());
  }

  private showLegend(): void {
    const { columns } = this.series;
    // The newest second is not counted to its end.
    const at = this.hover ?? columns.all.findLastIndex((value) => value !== null);
    const value = (column: Value[]): Value => column[at] ?? null;
    const words = (number: Value, format: (value: number) => string): string => (number === null ? "–" : format(number));
    const [all, visitors, mean] = [value(columns.all), value(columns.visitors), value(columns.mean)];
    this.legend("visitors", words(visitors, rate));
    this.legend("attackers", words(all === null || visitors === null ? null : all - visitors, rate));
    this.legend("rate", words(value(columns.rate), rate));
    this.legend("mean", words(mean, (mean) => `${rate(mean)} ± ${rate(value(columns.stddev) ?? 0)}`));
    this.legend("errors", words(value(columns.errors), rate));
    this.legend("packets", words(value(columns.packets), (packets) => `${rate(packets)}, ${bytes(value(columns.bytes) ?? 0)}`));
    this.legend("at", this.hover === null ? "now" : words(columns.at[at] ?? null, (secs) => time(secs * 1000)));
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

  private makeSwitches(): void {
    this.rateBox.setAttribute("role", "img");
    this.dropBox.setAttribute("role", "img");
    const radios = SPANS.map((span, at) => {
      const input = h("input", { type: "radio", name: "range", id: `range-${at}`, checked: at === this.shown, change: () => this.choose(at) });
      return [input, h("label", { for: `range-${at}` }, span.label)];
    });
    byId("ranges").append(...radios.flat());
    const scales: [Scale, string][] = [
      ["linear", "Linear"],
      ["log", "Log"],
    ];
    const scale = scales.map(([scale, label]) => {
      const input = h("input", { type: "radio", name: "scale", id: `scale-${scale}`, checked: scale === this.scale, change: () => this.rescale(scale) });
      return [input, h("label", { for: `scale-${scale}` }, label)];
    });
    byId("scales").append(...scale.flat());
    this.draw();
  }

  /** A plot's scale is for its life. */
  private rescale(scale: Scale): void {
    this.scale = scale;
    this.plots.rate.destroy();
    this.plots.drops.destroy();
    this.plots = this.makePlots();
    this.draw();
  }

  private choose(at: number): void {
    this.shown = at;
    this.hover = null;
    this.reloadWhenOld();
    this.draw();
    this.chosen();
  }

  private resize(): void {
    this.plots.rate.setSize({ width: this.rateBox.clientWidth, height: this.rateBox.clientHeight });
    this.plots.drops.setSize({ width: this.dropBox.clientWidth, height: this.dropBox.clientHeight });
  }
}

function isEmpty(column: Value[]): boolean {
  return column.every((value) => value === null || value === 0);
}

/** A legend: what is drawn, each with its value. */
function legend(parent: Element, entries: [string, string][]): Legend {
  const values = new Map<string, Element>();
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
