// A client of the Workload API with java-spiffe: Workload AUDIENCE. Prints the same as workload.py.

import io.spiffe.bundle.jwtbundle.JwtBundleSet;
import io.spiffe.exception.JwtSvidException;
import io.spiffe.svid.x509svid.X509SvidValidator;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.util.Base64;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

public class Workload {
    static volatile boolean ending = false;

    public static void main(String[] arguments) throws Exception {
        String audience = arguments[0];
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
            var svid = client.fetchJwtSvid(audience);
            say("{\"spiffe_id\":\"%s\",\"token\":\"%s\"}", svid.getSpiffeId(), svid.getToken());
            var valid = client.validateJwtSvid(svid.getToken(), audience);
            say("{\"valid\":\"%s\"}", valid.getSpiffeId());
            boolean denied = false;
            try {
                client.fetchJwtSvid("https://bank.example.com");
            } catch (JwtSvidException e) {
                denied = String.valueOf(e.getCause()).contains("PERMISSION_DENIED");
            }
            say("{\"denied\":%s}", denied);
            CountDownLatch pushed = new CountDownLatch(2);
            client.watchJwtBundles(new Watcher<JwtBundleSet>() {
                @Override
                public void onUpdate(JwtBundleSet bundles) {
                    String kids = bundles.getBundles().values().stream()
                        .flatMap(bundle -> bundle.getJwtAuthorities().keySet().stream())
                        .map(kid -> "\"" + kid + "\"")
                        .collect(Collectors.joining(","));
                    say("{\"kids\":[%s]}", kids);
                    pushed.countDown();
                }

                @Override
                public void onError(Throwable fault) {
                    failed(fault);
                }
            });
            if (!pushed.await(30, TimeUnit.SECONDS)) {
                System.exit(1);
            }
            String domains = client.fetchX509Bundles().getBundles().keySet().stream()
                .map(domain -> "\"" + domain.getName() + "\"")
                .collect(Collectors.joining(","));
            say("{\"domains\":[%s]}", domains);
            CountDownLatch renewed = new CountDownLatch(2);
            client.watchX509Context(new Watcher<X509Context>() {
                @Override
                public void onUpdate(X509Context context) {
                    var svid = context.getDefaultSvid();
                    try {
                        X509SvidValidator.verifyChain(svid.getChain(), context.getX509BundleSet());
                        String leaf = Base64.getEncoder().encodeToString(svid.getLeaf().getEncoded());
                        say("{\"x509\":\"%s\",\"leaf\":\"%s\",\"holds\":true}", svid.getSpiffeId(), leaf);
                    } catch (Exception fault) {
                        onError(fault);
                    }
                    renewed.countDown();
                }

                @Override
                public void onError(Throwable fault) {
                    failed(fault);
                }
            });
            if (!renewed.await(60, TimeUnit.SECONDS)) {
                System.exit(1);
            }
            ending = true;
        }
        System.exit(0);
    }

    // A client that closes ends its watches with an error, which is not one of the daemon.
    static void failed(Throwable fault) {
        if (!ending) {
            fault.printStackTrace();
            System.exit(1);
        }
    }

    static synchronized void say(String format, Object... values) {
        System.out.println(String.format(format, values));
        System.out.flush();
    }
}
