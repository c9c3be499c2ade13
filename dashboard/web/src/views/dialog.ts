// The dialog: confirms changes, asks for the token if there is none yet, and shows explanations.

import { api, ApiError } from "../api/client";
import { forgetToken, keepToken, readToken } from "../api/token";
import { byId, h, setText } from "../dom";

export interface Question {
  title: string;
  text: string;
  /** Further fields, above the token's. */
  fields: HTMLElement[];
  /** The label of the confirming button. */
  confirm: string;
  /** Performs the change. If it throws, the message is shown and the dialog stays open. */
  run(): Promise<void>;
}

const dialog = byId<HTMLDialogElement>("dialog");

/** Opens a dialog that runs its action once it is confirmed. */
export function ask(question: Question): void {
  const tokenField = new TokenField();
  const problem = h("p", { class: "problem", role: "alert" });
  const confirm = h("button", { type: "submit", class: "primary" }, question.confirm);
  const cancel = h("button", { type: "button", class: "quiet", click: () => dialog.close() }, "Cancel");
  const form = h(
    "form",
    {
      submit: (event) => {
        event.preventDefault();
        void attempt(question, tokenField, problem, confirm);
      },
    },
    h("h2", { id: "dialog-title" }, question.title),
    h("p", {}, question.text),
    ...question.fields,
    tokenField.element,
    problem,
    h("div", { class: "dialog-buttons" }, cancel, confirm),
  );
  dialog.replaceChildren(form);
  dialog.showModal();
}

let whenClosed: () => void = () => undefined;

dialog.addEventListener("close", () => {
  const run = whenClosed;
  whenClosed = () => undefined;
  run();
});

export function close(): void {
  dialog.close();
}

/** Shows content to read; `closed` is called when it is closed. */
export function show(title: string, closed: () => void, ...content: HTMLElement[]): void {
  whenClosed = closed;
  const close = h("button", { type: "button", class: "quiet", click: () => dialog.close() }, "Close");
  dialog.replaceChildren(
    h("div", { class: "dialog-read" }, h("h2", { id: "dialog-title" }, title), ...content, h("div", { class: "dialog-buttons" }, close)),
  );
  if (!dialog.open) dialog.showModal();
}

/** A text field with its label. */
export function field(label: string, attributes: Record<string, string | number | boolean>): { element: HTMLElement; input: HTMLInputElement } {
  const input = h("input", attributes);
  return { element: h("label", { class: attributes["type"] === "checkbox" ? "tick" : "field" }, h("span", {}, label), input), input };
}

async function attempt(question: Question, token: TokenField, problem: HTMLElement, confirm: HTMLButtonElement): Promise<void> {
  confirm.disabled = true;
  setText(problem, "");
  try {
    await token.settle();
    await question.run();
    dialog.close();
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      forgetToken();
      token.show();
    }
    setText(problem, error instanceof Error ? error.message : String(error));
  } finally {
    confirm.disabled = false;
  }
}

/** The field for the token, hidden if this tab has one. */
class TokenField {
  private readonly parts = field("Token", { type: "password", autocomplete: "off", spellcheck: false, required: true });
  private readonly hint = h("p", { class: "hint" }, "The agent created it at its first start, as the file api-token in its state directory, which only root can read. ", "This tab keeps it until it is closed.");
  readonly element = h("div", {}, this.parts.element, this.hint);

  constructor() {
    if (readToken() !== null) this.hide();
  }

  show(): void {
    this.element.hidden = false;
    this.parts.input.disabled = false;
    this.parts.input.value = "";
    this.parts.input.focus();
  }

  /** Keeps the token if the agent accepts it; throws if not. */
  async settle(): Promise<void> {
    if (this.element.hidden) return;
    const token = this.parts.input.value.trim();
    if (!(await api.mayChange(token))) throw new Error("This token is wrong.");
    keepToken(token);
    document.dispatchEvent(new Event("token-changed"));
    this.hide();
  }

  private hide(): void {
    this.element.hidden = true;
    this.parts.input.disabled = true;
  }
}
