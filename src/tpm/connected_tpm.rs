//! [`ConnectedTpm`]: what a request may use of the TPM.

use super::connection::TpmConnection;
use super::ek_info::{EkCache, EkInfo};
use super::error::Error;
use super::info;
use super::info::TpmInfo;
use super::objects::TpmObjects;
use super::state::{StateKind, TpmState};

/// A connection, with the host's objects if the TPM is the pinned one.
pub(super) struct ConnectedTpm {
    pub(super) connection: TpmConnection,
    /// The result of comparing the TPM with the pinned Names.
    pub(super) identity_state: TpmState,
    /// The host's objects; `None` also if this is not the pinned TPM.
    pub(super) objects: Option<TpmObjects>,
    info: Option<TpmInfo>,
    /// What was read about the endorsement keys, also by earlier connections.
    pub(super) ek_cache: EkCache,
}

impl ConnectedTpm {
    pub(super) fn new(
        connection: TpmConnection,
        identity_state: TpmState,
        objects: Option<TpmObjects>,
        ek_cache: EkCache,
    ) -> ConnectedTpm {
        ConnectedTpm { connection, identity_state, objects, info: None, ek_cache }
    }

    /// The connection and the host's objects.
    ///
    /// # Errors
    /// [`Error::NotReady`] if this is not the pinned TPM, [`Error::NotProvisioned`] if the host has no
    /// objects.
    pub(super) fn provisioned(&mut self) -> Result<(&mut TpmConnection, &TpmObjects), Error> {
        if self.identity_state.kind != StateKind::Ready {
            return Err(Error::NotReady(self.identity_state.kind));
        }
        match &self.objects {
            Some(objects) => Ok((&mut self.connection, objects)),
            None => Err(Error::NotProvisioned),
        }
    }

    /// The connection, if the host has no objects that new ones would replace.
    ///
    /// # Errors
    /// [`Error::NotReady`] if this is not the pinned TPM, [`Error::AlreadyProvisioned`] if the host has
    /// objects.
    pub(super) fn unprovisioned(&mut self) -> Result<&mut TpmConnection, Error> {
        match (self.identity_state.kind, &self.objects) {
            (StateKind::Ready, None) => Ok(&mut self.connection),
            (StateKind::Ready, Some(_)) => Err(Error::AlreadyProvisioned),
            (kind, _) => Err(Error::NotReady(kind)),
        }
    }

    /// Checks that the TPM has memory for a session and a loaded key.
    pub(super) fn check_capacity(&mut self) -> Result<(), Error> {
        match &self.objects {
            Some(objects) => self.connection.with_loaded(&objects.host_key, |_, _| Ok(())),
            None => self.connection.run("TPM2_GetRandom", |context| context.get_random(8)).map(drop),
        }
    }

    /// Sets the host's objects. The actor copies them after the request, for later connections.
    pub(super) fn use_keys(&mut self, objects: &TpmObjects) -> Result<(), Error> {
        self.unprovisioned()?;
        self.info = None;
        self.objects = Some(objects.clone());
        Ok(())
    }

    /// Facts about the TPM, read once for each connection.
    pub(super) fn info(&mut self) -> Result<TpmInfo, Error> {
        if let Some(info) = &self.info {
            return Ok(info.clone());
        }
        let info = info::read(&mut self.connection, &mut self.ek_cache, self.objects.as_ref())?;
        self.info = Some(info.clone());
        Ok(info)
    }

    /// The endorsement keys, read once; again if one could not be derived.
    pub(super) fn ek_info(&mut self) -> Result<EkInfo, Error> {
        self.ek_cache.ek_info(&mut self.connection)
    }
}
