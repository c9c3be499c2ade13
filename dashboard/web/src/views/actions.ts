// What an operator can change here: lift a ban, put a client on the allowlist, give or forget the token.

import { api } from "../api/client";
import { forgetToken, readToken } from "../api/token";
import type { Reply } from "../api/types";
import { byId, h, setText } from "../dom";
import { ask, field } from "./dialog";

const REASON = { type: "text", maxlength: 200, autocomplete: "off" };

/** Asks, then lifts the client's ban; `done` is called after it was lifted. */
export function lift(client: string, done: () => void): void {
  const reason = field("Reason, for the record (optional)", REASON);
  const forget = field("Forget its offences as well", { type: "checkbox" });
  ask({
    title: `Lift the ban of ${client}`,
    text: "Its packets get through again at once, and its window is cleared. Its offences stay remembered, so that a next ban is longer.",
    fields: [reason.element, forget.element],
    doIt: "Lift the ban",
    run: async () => {
      fulfilled(await api.unban(client, forget.input.checked, textOrNull(reason.input)));
      done();
    },
  });
}

/** Asks, then puts the client on the allowlist; `done` is called after that. */
export function allow(client: string, done: () => void): void {
  const reason = field("Reason, for the record (optional)", REASON);
  ask({
    title: `Always allow ${client}`,
    text: "Its ban is lifted, and it is never banned again, whatever it does, until it is taken off the allowlist.",
    fields: [reason.element],
    doIt: "Allow always",
    run: async () => {
      fulfilled(await api.allow(client, textOrNull(reason.input)));
      done();
    },
  });
}

/** Wires the header's button that gives or forgets the token; `given` is called with a right one. */
export function startTokenButton(given: () => void): () => void {
  const button = byId("token-button");
  const show = (): void => {
    const has = readToken() !== null;
    setText(button, has ? "Lock" : "Unlock");
    button.setAttribute("title", has ? "Forget the token in this tab" : "Give the operator's token, to lift bans and allow clients");
  };
  const unlock = (): void => {
    const text = "With the operator's token this page can lift bans and allow clients.";
    ask({ title: "Give the token", text, fields: [], doIt: "Unlock", run: async () => given() });
  };
  button.addEventListener("click", () => {
    if (readToken() === null) return unlock();
    forgetToken();
    show();
    say("Locked: the token is forgotten.");
  });
  document.addEventListener("token-changed", show);
  show();
  return unlock;
}

/** Says the outcome of an action, to eyes and to screen readers. */
export function say(text: string): void {
  // A new element each time: the style sheet fades it out again, and readers announce it even when the text is the same.
  byId("said").replaceChildren(h("p", { class: "toast" }, text));
}

function fulfilled(reply: Reply): void {
  const refused = reply.results.filter((result) => !result.ok);
  if (refused.length > 0) throw new Error(refused.map((result) => `${result.client}: ${result.message}`).join("; "));
  say(reply.results.map((result) => `${result.client}: ${result.message}`).join("; "));
}

function textOrNull(input: HTMLInputElement): string | null {
  const text = input.value.trim();
  return text === "" ? null : text;
}
