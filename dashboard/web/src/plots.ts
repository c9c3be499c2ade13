// The plot of what reached the web server, and below it, hanging down, of what was dropped before it. Drawn by uPlot; their data
// is in `series.ts`.

import uPlot from "uplot";
import { shortCount } from "./format";
import { band, type Series } from "./series";
import { colour } from "./theme";

const TOKENS = ["visitors", "attackers", "rate", "errors", "mean", "band", "packets", "ban", "anomaly", "grid", "axis"] as const;
type Palette = Record<(typeof TOKENS)[number], string>;

/** Linear, or as the inverse hyperbolic sine: like a logarithm, but with a place for 0. */
export type Scale = "linear" | "log";

/** Marks closer than this are drawn as one. */
const MARK_WIDTH_PX = 14;
const AXIS_FONT = "11px system-ui, sans-serif";
const SYNC = "traffic";

/** Columns of the plots, in the order of their data. */
export const RATE = { at: 0, all: 1, visitors: 2, errors: 3, rate: 4, mean: 5, low: 6, high: 7 } as const;

let palette = readPalette;

function readPalette(): Palette {
  const read = Object.fromEntries(TOKENS.map((token) => [token, colour(`plot-${token}`)])) as Palette;
  palette = () => read;
  return read;
}

/** Reads the colours again at the next drawing. */
export function forgetPalette(): void {
  palette = readPalette;
}

export function rateData({ columns }: Series): uPlot.AlignedData {
  const { low, high } = band(columns);
  return [columns.at, columns.all, columns.visitors, columns.errors, columns.rate, columns.mean, low, high];
}

export function dropData({ columns }: Series): uPlot.AlignedData {
  return [columns.at, columns.packets];
}

/** A stretch of time that a mark stands for, in seconds. */
export interface Stretch {
  from: number;
  to: number;
}

/** What reached the web server: all of it, the visitors' part over it, the mean of 60 s and the usual band, with the marks of
 * `series`. */
export function ratePlot(parent: HTMLElement, series: () => Series, scale: Scale, hovered: (at: number | null) => void, marked: (stretch: Stretch) => void): uPlot {
  const line = (token: keyof Palette, width: number, dash?: number[]): uPlot.Series => ({
    stroke: () => palette()[token],
    width,
    points: { show: false },
    ...(dash === undefined ? {} : { dash }),
  });
  const plot = new uPlot(
    {
      ...common(parent),
      padding: [12, 8, 0, 0],
      series: [{}, barsOf("attackers"), barsOf("visitors"), line("errors", 1.25), line("rate", 2), line("mean", 1.25, [5, 4]), line("band", 0), line("band", 0)],
      bands: [{ series: [RATE.high, RATE.low], fill: () => palette().band }],
      scales: { x: { time: true }, y: { range: fromZero(1), ...distribution(scale) } },
      axes: [timeAxis(), valueAxis((value) => shortNumber(value))],
      hooks: {
        drawClear: [(plot) => drawAnomalies(plot, series())],
        draw: [(plot) => drawBans(plot, series())],
        setCursor: [(plot) => hovered(plot.cursor.idx ?? null)],
      },
    },
    rateData(series()),
    parent,
  );
  plot.over.addEventListener("click", (event) => {
    const stretch = markAt(plot, series(), event.offsetX);
    if (stretch !== null) marked(stretch);
  });
  return plot;
}

/** Packets dropped per second, downwards. */
export function dropPlot(parent: HTMLElement, series: () => Series, scale: Scale, hovered: (at: number | null) => void): uPlot {
  return new uPlot(
    {
      ...common(parent),
      padding: [0, 8, 6, 0],
      series: [{}, { ...barsOf("packets"), scale: "packets" }],
      scales: { x: { time: true }, packets: { range: fromZero(10), dir: -1, ...distribution(scale) } },
      axes: [{ show: false }, { ...valueAxis((value) => (value === 0 ? "" : shortNumber(value))), scale: "packets", space: 22 }],
      hooks: { setCursor: [(plot) => hovered(plot.cursor.idx ?? null)] },
    },
    dropData(series()),
    parent,
  );
}

function barsOf(token: keyof Palette): uPlot.Series {
  const paths = uPlot.paths.bars?.({ size: [0.86, 24], gap: 0 });
  return { fill: () => palette()[token], stroke: () => palette()[token], width: 0, points: { show: false }, ...(paths === undefined ? {} : { paths }) };
}

function distribution(scale: Scale): Pick<uPlot.Scale, "distr" | "asinh"> {
  return scale === "log" ? { distr: 4, asinh: 1 } : {};
}

function common(parent: HTMLElement): Pick<uPlot.Options, "width" | "height" | "legend" | "cursor"> {
  return {
    width: parent.clientWidth,
    height: parent.clientHeight,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: SYNC }, points: { show: false } },
  };
}

/** From 0 to a tenth above the highest value, and at least to `least`, so that noise does not fill the plot. */
function fromZero(least: number): uPlot.Range.Function {
  return (_plot, _min, max) => [0, Math.max(least, (max ?? 0) * 1.1)];
}

function timeAxis(): uPlot.Axis {
  const twoDigits = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return {
    stroke: () => palette().axis,
    font: AXIS_FONT,
    grid: { show: false },
    ticks: { stroke: () => palette().grid, size: 4 },
    size: 26,
    gap: 3,
    space: 76,
    values: (_plot, splits) => splits.map((secs) => twoDigits.format(new Date(secs * 1000))),
    incrs: [60, 120, 300, 600, 900, 1800, 3600, 2 * 3600, 3 * 3600, 6 * 3600],
  };
}

function valueAxis(words: (value: number) => string): uPlot.Axis {
  return {
    stroke: () => palette().axis,
    font: AXIS_FONT,
    grid: { stroke: () => palette().grid, width: 1 },
    ticks: { show: false },
    size: 46,
    gap: 6,
    space: 34,
    values: (_plot, splits) => splits.map((value) => (value === null ? "" : words(value))),
  };
}

function shortNumber(value: number): string {
  return value < 10 ? String(Number(value.toFixed(2))) : shortCount(value);
}

function drawAnomalies(plot: uPlot, series: Series): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.fillStyle = palette().anomaly;
  for (const { from, to } of series.anomalies()) {
    const left = Math.max(bbox.left, plot.valToPos(from, "x", true));
    const right = to === null ? bbox.left + bbox.width : Math.min(bbox.left + bbox.width, plot.valToPos(to, "x", true));
    if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
  }
  ctx.restore();
}

function drawBans(plot: uPlot, series: Series): void {
  const { ctx, bbox } = plot;
  const { min, max } = plot.scales["x"] ?? {};
  if (min === undefined || max === undefined || min === null || max === null) return;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.fillStyle = ctx.strokeStyle = palette().ban;
  ctx.font = `600 ${10 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  ctx.lineWidth = ratio;
  ctx.setLineDash([2 * ratio, 3 * ratio]);
  for (const { at, count } of series.bans(secsPerMark(plot))) {
    const x = plot.valToPos(at, "x", true);
    if (x >= bbox.left && x <= bbox.left + bbox.width) drawBan(ctx, x, bbox, count, ratio);
  }
  ctx.restore();
}

function secsPerMark({ scales, bbox }: uPlot): number {
  const { min, max } = scales["x"] ?? {};
  return Math.max(1, (((max ?? 0) - (min ?? 0)) / bbox.width) * MARK_WIDTH_PX * devicePixelRatio);
}

/** The stretch of the mark at this place, if there is one. */
function markAt(plot: uPlot, series: Series, px: number): Stretch | null {
  const distance = ({ at }: { at: number }): number => Math.abs(plot.valToPos(at, "x") - px);
  const nearest = series.bans(secsPerMark(plot)).toSorted((a, b) => distance(a) - distance(b))[0];
  if (nearest === undefined || distance(nearest) > MARK_WIDTH_PX) return null;
  return { from: nearest.at - nearest.secs / 2, to: nearest.at + nearest.secs / 2 };
}

/** A dotted line with a triangle at its top, and a number if it stands for several bans. */
function drawBan(ctx: CanvasRenderingContext2D, x: number, bbox: uPlot.BBox, count: number, ratio: number): void {
  const size = 4 * ratio;
  ctx.beginPath();
  ctx.moveTo(x, bbox.top + size);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.beginPath();
  ctx.moveTo(x - size, bbox.top);
  ctx.lineTo(x + size, bbox.top);
  ctx.lineTo(x, bbox.top + size * 1.6);
  ctx.fill();
  if (count > 1) ctx.fillText(shortCount(count), x + 10 * ratio, bbox.top + 9 * ratio);
}
