//! The Redis that the operator names in place of this region's member of the Global Datastore: another server that takes
//! writes and is empty.

use super::obstacle;
use crate::observation::Obstacle;
use futures::future::join_all;
use redis::AsyncCommands;
use shared::queue::{FAILOVER_RUN, Link, LinkError};

/// The key has no use after the failover. In seconds.
const OWNER_TTL_SECONDS: u64 = 7 * 86_400;

/// Checks that `link` is none of the `known` servers, as far as these answer, and that it is empty or the run's own already.
/// Writes the run's id into it.
pub(super) async fn claim(link: &Link, known: &[(&str, Link)], run_id: &str) -> Result<(), Obstacle> {
    if !link.takes_writes().await.map_err(obstacle)? {
        return Err(obstacle("it follows another one, and takes no writes"));
    }
    let own = server_id(link).await.map_err(obstacle)?;
    let ids = join_all(known.iter().map(async |(name, link)| (*name, server_id(link).await))).await;
    if let Some((name, _)) =
        ids.iter().find(|(_, id)| own.is_some() && id.as_ref().is_ok_and(|id| *id == own))
    {
        return Err(obstacle(format!("it is {name}, under another name: name another one")));
    }
    let (keys, owner) = link
        .call(async |mut connection| {
            let mut pipe = redis::pipe();
            pipe.cmd("DBSIZE").cmd("GET").arg(FAILOVER_RUN);
            pipe.query_async::<(u64, Option<String>)>(&mut connection).await
        })
        .await
        .map_err(obstacle)?;
    // An aborted run has left its id alone.
    let is_empty = keys == u64::from(owner.is_some());
    if !is_empty && owner.as_deref() != Some(run_id) {
        return Err(obstacle(format!("it has {keys} keys that this run did not write: name an empty one")));
    }
    let written = link.call(async |mut connection| {
        connection.set_ex::<_, _, ()>(FAILOVER_RUN, run_id, OWNER_TTL_SECONDS).await
    });
    written.await.map_err(obstacle)
}

/// The id that a server draws when it starts; `None` if it shows none.
async fn server_id(link: &Link) -> Result<Option<String>, LinkError> {
    let info = link.call(async |mut connection| {
        redis::cmd("INFO").arg("server").query_async::<String>(&mut connection).await
    });
    Ok(info.await?.lines().find_map(|line| line.strip_prefix("run_id:")).map(|id| id.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use local::system::redis_server::{self, Redis};
    use shared::config::RedisConfig;

    fn link(redis: &Redis) -> Link {
        let url = redis.url();
        Link::new(RedisConfig::main(&|name: &str| redis_server::setting(name, &url)).unwrap())
    }

    #[tokio::test]
    async fn another_redis_is_empty_or_the_run_s_own_and_no_server_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let (main, spare) =
            tokio::try_join!(Redis::start(folder.path(), "main"), Redis::start(folder.path(), "spare"))
                .unwrap();
        let known = [("main's Redis", link(&main))];
        let refused = async |link: &Link, run: &str| claim(link, &known, run).await.unwrap_err().0;
        assert!(refused(&link(&main), "run-1").await.contains("main's Redis, under another name"));
        let spare = link(&spare);
        // An aborted run has named it before.
        claim(&spare, &known, "run-0").await.unwrap();
        claim(&spare, &known, "run-1").await.unwrap();
        let item = spare.call(async |mut connection| connection.set::<_, _, ()>("item", 1).await);
        item.await.unwrap();
        claim(&spare, &known, "run-1").await.unwrap();
        assert!(refused(&spare, "run-2").await.contains("2 keys that this run did not write"));
        let replica = Redis::start_replica(folder.path(), "replica", &main).await.unwrap();
        assert!(refused(&link(&replica), "run-1").await.contains("takes no writes"));
    }
}
