//! `[flows]`.

use std::time::Duration;

use serde::Deserialize;

use crate::config::duration;

/// Longest [`Flows::drain_timeout`].
const MOST: Duration = Duration::from_secs(30 * 86_400);

/// `[flows]`: how long flows may go on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flows {
    /// How long the flows of a removed target go on; then TCP is reset at its next packet, and UDP chooses another target.
    #[serde(deserialize_with = "duration::deserialize")]
    pub drain_timeout: Duration,
}

impl Default for Flows {
    fn default() -> Self {
        Self { drain_timeout: Duration::from_secs(300) }
    }
}

impl Flows {
    pub(super) fn problems(&self, mut add: impl FnMut(&'static str, String)) {
        if self.drain_timeout > MOST {
            let (time, most) = (duration::format(self.drain_timeout), duration::format(MOST));
            add("drain_timeout", format!("drain_timeout = {time:?} is more than {most}"));
        }
    }
}
