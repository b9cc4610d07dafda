// Drives, and what is in them.

import { by, confirm, make, notice, pressed, show } from './dialogs.js';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** A number of bytes, as people read it. */
export function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < UNITS.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || bytes >= 100 || Number.isInteger(bytes) ? 0 : 1;
  return `${bytes.toFixed(digits)} ${UNITS[unit]}`;
}

/** The view of the drives. */
export class Disks {
  #qmp = null;

  connect(qmp) {
    this.#qmp = qmp;
    qmp.on(['DEVICE_TRAY_MOVED', 'DEVICE_DELETED', 'RESET'], () => this.shown());
  }

  disconnect() {
    this.#qmp = null;
  }

  async shown() {
    if (by('view-disks').hidden || !this.#qmp) return;
    const drives = await this.#qmp.execute('query-block').catch(() => []);
    const cards = drives.map((drive) => this.#card(drive));
    by('disk-list').replaceChildren(...cards);
    if (!cards.length) by('disk-list').append(make('p', { className: 'note', textContent: 'There are no drives.' }));
  }

  #card(drive) {
    const { inserted, removable, locked } = drive;
    const tags = [removable && 'removable', inserted?.ro && 'read-only', locked && 'locked',
      drive.tray_open && 'tray open', drive['io-status'] && drive['io-status'] !== 'ok' && drive['io-status']];
    const title = make('h3', {}, drive.device || drive.qdev || 'drive');
    title.append(...tags.filter(Boolean).map((tag) => make('span', { className: 'tag', textContent: tag })));
    const card = make('article', { className: 'card' }, title);
    if (inserted) {
      card.append(make('p', { className: 'file', textContent: inserted.file }));
      const image = inserted.image ?? {};
      const facts = [inserted.drv, size(image['virtual-size'] ?? 0)];
      if (image['actual-size'] !== undefined) facts.push(`${size(image['actual-size'])} on the host`);
      card.append(make('p', { className: 'facts', textContent: facts.join(' · ') }));
    } else {
      card.append(make('p', { className: 'file note', textContent: 'No medium' }));
    }
    if (drive.qdev) card.append(make('p', { className: 'facts', textContent: drive.qdev }));
    if (removable) {
      const eject = make('button', { textContent: 'Eject', disabled: !inserted });
      const change = make('button', { textContent: inserted ? 'Change medium' : 'Insert medium' });
      pressed(eject, () => this.#eject(drive));
      pressed(change, () => this.#change(drive));
      card.append(make('div', { className: 'buttons' }, eject, change));
    }
    return card;
  }

  /** How commands call a drive. */
  #name(drive) {
    return drive.device ? { device: drive.device } : { id: drive.qdev };
  }

  async #eject(drive) {
    const name = this.#name(drive);
    try {
      await this.#qmp.execute('eject', name);
    } catch (error) {
      const text = `${error.message}. Take the medium out all the same?`;
      if (!drive.locked || !(await confirm('The tray is locked', text, 'Eject'))) throw error;
      await this.#qmp.execute('eject', { ...name, force: true });
    }
    notice('The medium is out.');
    await this.shown();
  }

  async #change(drive) {
    if (!(await show(by('medium-dialog')))) return;
    const filename = by('medium-file').value.trim();
    if (!filename) throw new Error('No file was named.');
    const format = by('medium-format').value;
    const args = { ...this.#name(drive), filename, force: by('medium-force').checked };
    await this.#qmp.execute('blockdev-change-medium', format ? { ...args, format } : args);
    notice('The medium is in.');
    await this.shown();
  }
}
