//! QEMU's own client library for Python, as management software uses it.

use anyhow::{Result, ensure};
use std::process::Command;

fn python() -> Command {
    Command::new(testbed::python::program())
}

const SCRIPT: &str = r#"
import asyncio, sys
from qemu.qmp import QMPClient, ExecuteError

async def main():
    client = QMPClient('test')
    with client.listener() as events:
        await client.connect(sys.argv[1])
        status = await client.execute('query-status')
        assert status == {'running': False, 'status': 'prelaunch'}, status
        try:
            await client.execute('no-such-command')
        except ExecuteError as error:
            assert error.error_class == 'CommandNotFound', error
        else:
            raise AssertionError('an unknown command was executed')
        await client.execute('cont')
        event = await events.get()
        assert event['event'] == 'RESUME', event
        schema = await client.execute('query-qmp-schema')
        assert any(entity['name'] == 'query-status' for entity in schema)
        await client.disconnect()

asyncio.run(main())
"#;

#[test]
fn the_python_client_gets_along() -> Result<()> {
    let found = python().args(["-c", "import qemu.qmp"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        testbed::skip("no Python with qemu.qmp (`cargo xtask assets` installs one)");
        return Ok(());
    }
    let (_vm, path, _directory) = crate::server()?;
    let output = python().args(["-c", SCRIPT]).arg(path).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
