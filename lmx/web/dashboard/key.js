// Asks for the admin key when the server wants one, and forgets it on request.

import { access, explain, isExpected } from "./api.js";
import { byId, setHidden, setText } from "./dom.js";

export function watchKey() {
  const dialog = byId("key-dialog");
  const open = () => {
    if (!dialog.open) dialog.showModal();
    byId("key-input").focus();
  };
  access.addEventListener("locked", () => {
    showError("");
    open();
    showButton();
  });
  access.addEventListener("unlocked", showButton);
  access.addEventListener("forgotten", showButton);
  byId("key-button").addEventListener("click", () => (access.isLocked ? open() : access.forget()));
  byId("key-cancel").addEventListener("click", () => dialog.close());
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit(dialog);
  });
  showButton();
}

async function submit(dialog) {
  const input = byId("key-input");
  try {
    const refusal = await access.unlock(input.value.trim(), { remember: byId("key-remember").checked });
    if (refusal) {
      showError(refusal);
      input.select();
    } else {
      input.value = "";
      dialog.close();
    }
  } catch (error) {
    if (!isExpected(error)) throw error;
    showError(explain(error));
  }
}

function showError(text) {
  setText(byId("key-error"), text);
  setHidden(byId("key-error"), !text);
}

function showButton() {
  setHidden(byId("key-button"), !access.isLocked && !access.key);
  setText(byId("key-button"), access.isLocked ? "Enter key" : "Forget key");
}
