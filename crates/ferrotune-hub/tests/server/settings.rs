//! How tests reach their hub: soon tired, and fast to try again.

#![allow(unreachable_pub)]

use std::path::Path;
use std::time::Duration;

use ferrotune_hub::hub::HubSettings;
use ferrotune_hub::net::NetSettings;

/// Settings for a hub at `endpoint` with this cache.
pub fn settings(endpoint: &str, cache: &Path) -> HubSettings {
    let net = NetSettings {
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(5),
        retries: 2,
        retry_pause: Duration::from_millis(1),
        ..NetSettings::default()
    };
    HubSettings { endpoint: endpoint.into(), cache_dir: cache.into(), token: None, offline: false, net }
}
