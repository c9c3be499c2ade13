// The environments for rehearsals on this host. A host that has none shows nothing of them.

import { api } from "../api/client";
import type { LabView } from "../api/types";
import { byId, h, Keyed, setAttribute, setText } from "../dom";
import { span } from "../format";

/** Interval of looking. */
const LOOK_EVERY_MS = 10_000;

export class Labs {
  private lastLook = 0;
  private readonly rows = new Keyed<LabView, LabRow>(
    byId("labs-rows"),
    (lab) => lab.id,
    (lab) => new LabRow(lab.id),
  );

  constructor() {
    setInterval(() => {
      if (document.visibilityState === "visible" && document.body.dataset["link"] === "live") void this.look();
    }, LOOK_EVERY_MS);
  }

  async look(): Promise<void> {
    const ticket = ++this.lastLook;
    const list = await api.labs().catch(() => null);
    if (list === null || ticket !== this.lastLook) return;
    byId("labs-panel").hidden = list.labs.length === 0;
    this.rows.update(list.labs);
  }
}

class LabRow {
  readonly elements: Element[];
  private readonly row: HTMLElement;
  private readonly cells = ["Profile", "State", "Health", "Ends in"].map((label) => h("td", { role: "cell", "data-label": label }));

  constructor(id: string) {
    this.row = h("tr", { role: "row", class: "lab" }, h("td", { role: "cell" }, id), ...this.cells);
    this.elements = [this.row];
  }

  update(lab: LabView): void {
    const texts = [lab.profile, lab.phase, lab.condition === "unknown" ? "not looked at" : lab.condition, span(lab.left_secs)];
    this.cells.forEach((cell, at) => setText(cell, texts[at] ?? ""));
    setAttribute(this.row, "data-degraded", lab.condition === "degraded" ? "" : null);
  }
}
