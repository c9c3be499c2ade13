// How every part of Shield stands, as a state with its reason.

import type { Part, PartState, Status } from "../api/types";
import { byId, h, icon, Keyed, setAttribute, setText, type IconName } from "../dom";
import { partName } from "../format";

const STATES: Record<PartState, { words: string; icon: IconName }> = {
  active: { words: "works", icon: "check" },
  waiting: { words: "waits", icon: "wait" },
  degraded: { words: "degraded", icon: "warn" },
  off: { words: "off", icon: "off" },
};

export function startHealth(): (status: Status) => void {
  const parts = new Keyed<Part, PartView>(
    byId("parts"),
    (part) => `${part.part} ${part.state}`,
    (part) => new PartView(part),
  );
  return (status) => {
    parts.update(status.parts);
    const working = status.parts.filter((part) => part.state === "active").length;
    const on = status.parts.filter((part) => part.state !== "off").length;
    setText(byId("health-note"), `${working} of ${on} work`);
  };
}

class PartView {
  readonly elements: Element[];
  private readonly text = h("p", { class: "part-text" });

  constructor(part: Part) {
    const state = STATES[part.state];
    const head = h("p", { class: "part-head" }, h("span", { class: "part-name" }, partName(part.part)), h("span", { class: "part-state" }, state.words));
    this.elements = [h("li", { class: "part", "data-state": part.state }, icon(state.icon), h("div", {}, head, this.text))];
  }

  update(part: Part): void {
    setText(this.text, part.text);
    setAttribute(this.text, "title", part.text);
  }
}
