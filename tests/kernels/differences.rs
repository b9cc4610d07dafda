//! The table in docs/cpu-system.md: what QEMU's translator does differently.

use super::Said;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// A row: kernel, test (`*` at the end stands for anything), explanation.
struct Row {
    kernel: String,
    test: String,
}

impl Row {
    fn is_about(&self, kernel: &str, test: &str) -> bool {
        let matches = match self.test.strip_suffix('*') {
            Some(start) => test.starts_with(start),
            None => test == self.test,
        };
        self.kernel == kernel && matches
    }
}

fn table() -> Result<Vec<Row>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cpu-system.md");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ");
        let kernel = cells.next()?.trim_end_matches('`').to_owned();
        let test = cells.next()?.to_owned();
        cells.next()?;
        Some(Row { kernel, test })
    });
    Ok(rows.collect())
}

/// Whether QEMU cannot run a kernel at all.
pub fn is_impossible(kernel: &str) -> Result<bool> {
    Ok(table()?.iter().any(|row| row.kernel == kernel && row.test == "*"))
}

/// Every failure has its row, and every row its failure.
pub fn check(kernel: &str, said: &Said) -> Result<()> {
    let rows = table()?;
    for failed in said.failed() {
        ensure!(
            rows.iter().any(|row| row.is_about(kernel, failed)),
            "no row explains: {kernel} | {failed}\n{}",
            said.text
        );
    }
    for row in rows.iter().filter(|row| row.kernel == kernel) {
        ensure!(
            said.failed().any(|failed| row.is_about(kernel, failed)),
            "passes by now, or is not tested: {kernel} | {}",
            row.test
        );
    }
    ensure!(said.complete(), "{kernel} did not come to its end:\n{}", said.text);
    Ok(())
}
