import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Sends a body in three ways with a client as it is by default, and prints what comes back. */
public class Post {
    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[0]);
        byte[] content = "hello".getBytes();
        HttpClient client = HttpClient.newHttpClient();
        BodyPublisher chunked = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(content));
        post(client, HttpRequest.newBuilder(uri).POST(BodyPublishers.ofByteArray(content)));
        post(client, HttpRequest.newBuilder(uri).POST(chunked));
        post(
                HttpClient.newHttpClient(),
                HttpRequest.newBuilder(uri)
                        .expectContinue(true)
                        .POST(BodyPublishers.ofByteArray(content)));
    }

    private static void post(HttpClient client, HttpRequest.Builder request) throws Exception {
        var answer = client.send(request.build(), BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
    }
}
