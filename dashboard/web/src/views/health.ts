// The state of every part, with its details or its reason.

import type { Part, PartState, Status } from "../api/types";
import { byId, h, icon, Keyed, setAttribute, setText, type IconName } from "../dom";

/** Icon and order: what needs the operator comes first, what is switched off last. */
const STATES: Record<PartState, { icon: IconName; rank: number }> = {
  degraded: { icon: "warn", rank: 0 },
  waiting: { icon: "wait", rank: 1 },
  active: { icon: "check", rank: 1 },
  off: { icon: "off", rank: 2 },
};

export function startHealth(): (status: Status) => void {
  const fold = byId<HTMLDetailsElement>("health");
  let told = new Set<string>();
  const parts = new Keyed<Part, PartView>(
    byId("parts"),
    (part) => `${part.part} ${part.state}`,
    (part) => new PartView(part),
  );
  return (status) => {
    const { state, text } = status.detector;
    const all: Part[] = [{ part: "detector", label: "Detector", state, text }, ...status.parts];
    parts.update(all.toSorted((a, b) => STATES[a.state].rank - STATES[b.state].rank));
    const working = all.filter((part) => part.state === "active").length;
    const on = all.filter((part) => part.state !== "off").length;
    const wrong = all.filter((part) => part.state === "degraded").map((part) => part.label);
    setText(byId("health-note"), wrong.length === 0 ? `${working} of ${on} parts work` : `${wrong.join(", ")} degraded; ${working} of ${on} parts work`);
    setAttribute(fold, "data-wrong", wrong.length === 0 ? null : "");
    // Opened once for each new fault, so that it can be closed again.
    if (wrong.some((part) => !told.has(part))) fold.open = true;
    if (wrong.length === 0 && told.size > 0) fold.open = false;
    told = new Set(wrong);
  };
}

class PartView {
  readonly elements: Element[];
  private readonly text = h("p", { class: "part-text" });

  constructor(part: Part) {
    const state = STATES[part.state];
    const head = h("p", { class: "part-head" }, h("span", { class: "part-name" }, part.label), h("span", { class: "part-state" }, part.state));
    this.elements = [h("li", { class: "part", "data-state": part.state }, icon(state.icon), h("div", {}, head, this.text))];
  }

  update(part: Part): void {
    setText(this.text, part.text);
    setAttribute(this.text, "title", part.text);
  }
}
