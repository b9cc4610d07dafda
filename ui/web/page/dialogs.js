// Questions and messages.

export const by = (id) => document.getElementById(id);

/** Makes an element: properties, then children. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  const { dataset, ...others } = properties;
  Object.assign(element, others);
  Object.assign(element.dataset, dataset);
  element.append(...children);
  return element;
}

// Not what submits a form, or Enter in a field would cancel.
for (const button of document.querySelectorAll('dialog .cancel')) {
  button.addEventListener('click', () => button.closest('dialog').close('no'));
}

/** Shows a dialog; says whether it was agreed to. */
export function show(dialog) {
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

/** Asks before something that cannot be taken back. */
export function confirm(title, text, verb) {
  by('confirm-title').textContent = title;
  by('confirm-text').textContent = text;
  by('confirm-yes').textContent = verb;
  const answer = show(by('confirm'));
  by('confirm-no').focus();
  return answer;
}

/** Tells something; errors stay until they are put away. */
export function notice(text, bad = false) {
  const close = make('button', { textContent: 'Close' });
  const box = make('div', { className: bad ? 'bad' : '' }, make('span', { textContent: text }), close);
  close.addEventListener('click', () => box.remove());
  by('notices').append(box);
  if (!bad) setTimeout(() => box.remove(), 6000);
  while (by('notices').children.length > 4) by('notices').firstChild.remove();
}

export const fault = (error) => notice(error.message || String(error), true);

/** Does something when a button is pressed, and tells what goes wrong. */
export function pressed(button, action) {
  button.addEventListener('click', async () => {
    try {
      await action();
    } catch (error) {
      fault(error);
    }
  });
}
