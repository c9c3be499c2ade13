// The row of large figures: the present second.

import { byId, h, setAttribute, setText } from "../dom";
import { bytes, count, percent, rate, shortCount } from "../format";
import type { Baseline, DetectorStatus, Status } from "../api/types";

/** A rate this many standard deviations above the mean is highlighted. Bans follow the detector's own thresholds. */
const UNUSUAL_SIGMAS = 2;

type Tone = "calm" | "alert" | "warm";

interface Figure {
  title(text: string): void;
  show(value: string, unit: string, note: string, tone?: Tone): void;
}

export function startFigures(): (status: Status) => void {
  const parent = byId("figures");
  const figures = {
    rate: figure(parent, "Served to visitors"),
    attackers: figure(parent, "Asked by attackers"),
    dropped: figure(parent, "Dropped"),
    banned: figure(parent, "Banned"),
    errors: figure(parent, "Errors"),
  };
  return (status) => {
    showRate(figures.rate, status);
    showAttackers(figures.attackers, status);
    showDropped(figures.dropped, status);
    showBanned(figures.banned, status);
    showErrors(figures.errors, status);
  };
}

function figure(parent: Element, title: string): Figure {
  const value = h("span", { class: "figure-value" }, "–");
  const unit = h("span", { class: "figure-unit" });
  const note = h("p", { class: "figure-note" });
  const heading = h("h2", {}, title);
  const box = h("div", { class: "figure" }, heading, h("p", { class: "figure-line" }, value, " ", unit), note);
  parent.append(box);
  return {
    title: (text) => setText(heading, text),
    show(text, unitText, noteText, tone = "calm") {
      setText(value, text);
      setText(unit, unitText);
      setText(note, noteText);
      setAttribute(box, "data-tone", tone);
    },
  };
}

function showRate(figure: Figure, { global, baseline, detector }: Status): void {
  const visitors = Math.max(0, global.rate - (global.banned_rate ?? 0));
  const away = (visitors - baseline.mean) / baseline.stddev;
  const learned = hasLearned(baseline, detector);
  const note = learned ? `usual ${rate(baseline.mean)} ± ${rate(baseline.stddev)}` : "what is usual is not learned yet";
  const unusual = learned && away > UNUSUAL_SIGMAS;
  figure.show(rate(visitors), "req/s", note, unusual ? "warm" : "calm");
}

function showAttackers(figure: Figure, { global, dry_run: isDry }: Status): void {
  const asked = global.banned_rate ?? 0;
  figure.show(rate(asked), "req/s", isDry ? "clients that would be banned, over 60 s" : "clients banned by now, over 60 s", asked > 0 ? "alert" : "calm");
}

function hasLearned(baseline: Baseline, detector: DetectorStatus): boolean {
  return detector.warm_up === null && baseline.source !== "floor";
}

function showErrors(figure: Figure, { global, baseline, detector }: Status): void {
  const usual = hasLearned(baseline, detector) ? [`usual ${rate(baseline.error_mean)}`] : [];
  const share = global.rate > 0 ? [`${percent((100 * global.error_rate) / global.rate)} of requests`] : [];
  figure.show(rate(global.error_rate), "per s", [...usual, ...share].join(" · ") || "no requests");
}

function showBanned(figure: Figure, { bans, slowed, totals, dry_run: isDry }: Status): void {
  const lane = slowed !== undefined && slowed.active > 0 ? ` · ${count(slowed.active)} slowed` : "";
  const note = isDry ? "dry run: nothing is dropped" : `${count(bans.permanent)} permanent · ${shortCount(totals.bans)} in all${lane}`;
  figure.title(isDry ? "Would be banned" : "Banned");
  figure.show(count(bans.active), bans.active === 1 ? "client" : "clients", note);
}

function showDropped(figure: Figure, { dropped }: Status): void {
  const note = `${bytes(dropped.bytes_per_sec)}/s · ${shortCount(dropped.packets)} packets since start`;
  figure.show(rate(dropped.packets_per_sec), "packets/s", note, dropped.packets_per_sec > 0 ? "alert" : "calm");
}
