// The outcome of an action, for some seconds, with a way back where there is one.

import { byId, h } from "../dom";

/** Shows the outcome of an action; screen readers announce it. */
export function toast(text: string, undo?: { label: string; run: () => void }): void {
  const button = undo === undefined ? null : h("button", { type: "button", class: "quiet", click: () => (byId("toast").replaceChildren(), undo.run()) }, undo.label);
  // A new element each time: it fades out again, and is announced even if the text is the same as before.
  byId("toast").replaceChildren(h("div", { class: button === null ? "toast" : "toast toast-undo" }, h("p", {}, text), button));
}
