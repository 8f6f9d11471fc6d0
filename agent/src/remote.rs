//! An API elsewhere beside the alerts: it is told that we live, and says who is never punished.

use std::sync::Arc;
use std::time::Duration;

use api::client::{Client, ClientError, Method, NOTHING};
use api::wire::{self, AllowlistBody};
use jiff::Timestamp;
use model::AllowEntry;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};

/// How often: the field takes a machine for dead after two minutes.
const EVERY: Duration = Duration::from_mins(1);
/// How soon it is tried again when nobody answered.
const AGAIN: Duration = Duration::from_secs(10);
/// How many entries of its allowlists count at most.
const MOST: usize = 100_000;

/// Says once a minute that we live, and puts the entries of the API's allowlists into `allowed` when they have changed. While
/// it is away the last ones count. Ends when nobody looks at `allowed` any more.
pub async fn keep_in_touch(client: Arc<Client>, allowed: watch::Sender<Vec<AllowEntry>>) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = allowed.closed() => return,
        }
        pause = AGAIN;
        // Whoever sends alerts says loudly that nobody answers.
        if let Err(error) = client.heartbeat().await {
            debug!(%error, "cannot tell the api that we live");
            continue;
        }
        pause = EVERY;
        match allowlists(&client).await {
            Ok(entries) => {
                allowed.send_if_modified(|known| {
                    let changed = *known != entries;
                    *known = entries;
                    changed
                });
            }
            // Older servers have none.
            Err(ClientError::Api { status: 404, .. }) => {}
            Err(error) => warn!(%error, "cannot read the allowlists of the api, the last ones count"),
        }
    }
}

async fn allowlists(client: &Client) -> Result<Vec<AllowEntry>, ClientError> {
    let lists: Option<Vec<AllowlistBody>> =
        client.send(Method::GET, "v1/allowlists", &[("with_content", "true")], NOTHING).await?;
    let all = lists.unwrap_or_default().into_iter().flat_map(|list| {
        let AllowlistBody { name, items, .. } = list;
        items.into_iter().filter_map(move |item| {
            let net = model::scope::parse_net(&item.value).ok()?;
            let expires = if item.expiration == wire::NEVER { None } else { wire::parse_time(&item.expiration) };
            // Year 1 is how the field says never.
            let expires = expires.filter(|end| *end > Timestamp::UNIX_EPOCH);
            Some(AllowEntry { net, list: name.clone(), comment: item.description, expires })
        })
    });
    Ok(all.take(MOST).collect())
}
