//! Networks: published ports, and names in a user-defined network.

use super::daemon::Daemon;
use super::docker;
use crate::client::DOCKER;
use crate::ctx::Ctx;
use crate::scenario::Outcome;
use crate::scenarios::nerdctl_network::fetch;
use crate::wait::until;
use anyhow::{Result, ensure};
use std::time::Duration;

/// It has the port of names as well, at all addresses.
const SERVER: &str = "echo served >/tmp/index.html; httpd -p 53 -h /tmp; exec httpd -f -p 80 -h /tmp";

/// Containers of one network find each other by name and by alias, by UDP and by TCP; what is not there they do not find.
pub fn network(ctx: &Ctx) -> Result<Outcome> {
    let daemon = Daemon::start(ctx)?;
    let (net, server, client) = (&ctx.id("net"), &ctx.id("server"), &ctx.id("client"));
    docker(&["network", "create", net]).run()?.ok()?;
    let flags = ["-d", "--network", net];
    DOCKER
        .run(
            ctx,
            &[&flags[..], &["--name", server, "--network-alias", "web", "-p", "8089:80"]].concat(),
            SERVER,
        )
        .run()?
        .ok()?;
    DOCKER.run(ctx, &[&flags[..], &["--name", client]].concat(), "exec sleep 1000").run()?.ok()?;
    let served = until("the server", Duration::from_secs(30), || fetch(8089))?;
    ensure!(served == "served\n", "port 8089 answers with {served:?}");
    for name in [server.as_str(), "web"] {
        let got = DOCKER.says(client, &format!("wget -q -O - http://{name}/"))?;
        ensure!(got == "served", "{client} gets {got:?} of {name}");
    }
    // Many at once, each with a question of its own.
    let many =
        "for n in $(seq 20); do nslookup web >/tmp/$n 2>&1 & done; wait; cat /tmp/* | grep -c 'Name:.web'";
    let found = DOCKER.says(client, many)?;
    ensure!(found == "20", "of 20 look-ups at once {found} got an answer");
    let absent = docker(&["exec", client, "nslookup", "absent"]).run()?.expect_status(1)?.stdout_text();
    ensure!(absent.contains("can't find absent"), "of a name that is not there it hears {absent:?}");
    // Nothing else is there, and on the default bridge nothing at all.
    let other = DOCKER.says(client, "nc -w 2 127.0.0.11 54 </dev/null || echo refused")?;
    ensure!(other == "refused", "another port of the resolver's address: {other:?}");
    DOCKER
        .run(ctx, &["--rm"], "nc -w 2 127.0.0.11 53 </dev/null || echo refused")
        .run()?
        .ok()?
        .printed("refused\n")?;
    docker(&["exec", server, "ping", "-c", "1", client]).run()?.ok()?;
    let own = DOCKER.says(server, "wget -q -O - http://127.0.0.1:53/; nslookup web | grep -c 'Name:.web'")?;
    ensure!(own == "served\n1", "{server}, which has port 53, says {own:?}");
    // The question by TCP, with its length before it, as RFC 1035 has it.
    let by_tcp = r"printf '\0\25\0\1\1\0\0\1\0\0\0\0\0\0\3web\0\0\1\0\1' | nc -w 2 127.0.0.11 53 | od -An -tx1 | head -n 1";
    let answer = DOCKER.says(client, by_tcp)?;
    ensure!(answer.contains("00 01 8"), "the answer by TCP begins with {answer:?}");
    docker(&["rm", "-f", server, client]).run()?.ok()?;
    docker(&["network", "rm", net]).run()?.ok()?;
    daemon.stop()?;
    Ok(Outcome::Passed)
}
