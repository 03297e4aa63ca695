//! The rules of `[nri]`.

use super::check::SOCKET_PATH_MAX;
use super::rules::Rules;
use super::units::Span;
use super::{file, settings};

impl Rules {
    pub(super) fn nri(&mut self, file: &file::Nri) -> settings::Nri {
        let socket = self.absolute("nri.socket", &file.socket);
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            self.broken(
                "nri.socket",
                format!("must not be longer than {SOCKET_PATH_MAX} bytes"),
            );
        }
        let least = Span::millis(1);
        settings::Nri {
            enabled: file.enabled,
            socket: (!file.disable_connections).then_some(socket),
            plugin_dir: self.absolute("nri.plugin_dir", &file.plugin_dir),
            plugin_config_dir: self.absolute("nri.plugin_config_dir", &file.plugin_config_dir),
            registration_timeout: self.span(
                "nri.registration_timeout",
                file.registration_timeout,
                least,
            ),
            request_timeout: self.span("nri.request_timeout", file.request_timeout, least),
            synchronize_timeout: self.span(
                "nri.synchronize_timeout",
                file.synchronize_timeout,
                least,
            ),
            validator: self.validator(&file.default_validator),
        }
    }

    fn validator(&mut self, file: &file::Validator) -> Option<settings::Validator> {
        if file
            .required_plugins
            .iter()
            .any(|name| name.trim().is_empty())
        {
            self.broken(
                "nri.default_validator.required_plugins",
                "must not hold empty names",
            );
        }
        let annotation = &file.tolerate_missing_plugins_annotation;
        file.enabled.then(|| settings::Validator {
            reject_hooks: file.reject_oci_hook_adjustment,
            reject_seccomp_default: file.reject_runtime_default_seccomp_adjustment,
            reject_seccomp_unconfined: file.reject_unconfined_seccomp_adjustment,
            reject_seccomp_custom: file.reject_custom_seccomp_adjustment,
            reject_namespaces: file.reject_namespace_adjustment,
            reject_sysctls: file.reject_sysctl_adjustment,
            required_plugins: file.required_plugins.clone(),
            tolerate_missing_annotation: (!annotation.is_empty()).then(|| annotation.clone()),
        })
    }
}
